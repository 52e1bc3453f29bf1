import type { Model } from 'sequelize';
import type { Database } from '#kernel/persistence/database.js';
import { column, type Migration } from '#kernel/persistence/migrate.js';
import type { TransferKey, TransferRecord, TransferStore } from '../staging/progress.js';
import { GroupCommit } from './group-commit.js';

/** Table of data staging; after the jobs', with which its rows go. */
export const transferMigrations: readonly Migration[] = [
  {
    name: '002-transfers',
    up: (schema, transaction) =>
      schema.createTable(
        'xnjs_transfers',
        {
          job_id: column.id({
            primaryKey: true,
            references: { model: 'jobs', key: 'id' },
            onDelete: 'CASCADE',
          }),
          run: column.number({ primaryKey: true }),
          direction: column.word({ primaryKey: true }),
          idx: column.number({ primaryKey: true }),
          document: column.text(),
        },
        { transaction },
      ),
  },
];

type Row = { jobId: string; run: number; direction: string; idx: number; document: string };
const key = ['jobId', 'run', 'direction', 'idx'] as const;

/** {@link TransferStore} in the service's database, after {@link transferMigrations}. */
export function createTransferStore(database: Database): TransferStore {
  const rows = database.sequelize.define<Model<Row> & Row>(
    'xnjsTransfer',
    {
      jobId: column.id({ primaryKey: true }),
      run: column.number({ primaryKey: true }),
      direction: column.word({ primaryKey: true }),
      idx: column.number({ primaryKey: true }),
      document: column.text(),
    },
    { tableName: 'xnjs_transfers' },
  );
  const writes = new GroupCommit<Row, undefined>((group) =>
    database.transaction(async (transaction) => {
      // of several for one transfer the last counts; one statement may not change a row twice
      const last = new Map(group.map((row) => [key.map((name) => row[name]).join(' '), row]));
      const updateOnDuplicate: (keyof Row)[] = ['document'];
      await rows.bulkCreate([...last.values()], { updateOnDuplicate, transaction });
      return group.map(() => ({ value: undefined }));
    }),
  );
  return {
    async find({ jobId, run, direction }) {
      const found = await rows.findAll({ where: { jobId, run, direction } });
      // only what `save` has written
      return new Map(
        found.map(({ idx, document }) => [idx, JSON.parse(document) as TransferRecord]),
      );
    },
    async save({ jobId, run, direction, index }: TransferKey, record) {
      await writes.add({ jobId, run, direction, idx: index, document: JSON.stringify(record) });
    },
  };
}
