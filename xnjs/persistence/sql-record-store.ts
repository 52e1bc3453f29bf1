import type { Model } from 'sequelize';
import type { Database } from '#kernel/persistence/database.js';
import { column, type Migration } from '#kernel/persistence/migrate.js';
import type { OwnedRecord, RecordStore } from '../data/owned-records.js';

const columns = () => ({
  id: column.word({ primaryKey: true }),
  /** `transfer`, `task`, … */
  kind: column.word(),
  document: column.text(),
});
type Row = { id: string; kind: string; document: string };

export const recordMigrations: readonly Migration[] = [
  {
    name: '001-owned-records',
    up: async (schema, transaction) => {
      await schema.createTable(
        'owned_records',
        {
          id: column.word({ primaryKey: true }),
          kind: column.word(),
          document: column.text(),
        },
        { transaction },
      );
      const index = { name: 'owned_records_by_kind', fields: ['kind'], transaction };
      await schema.addIndex('owned_records', index);
    },
  },
];

/**
 * {@link RecordStore}s in the service's database, after {@link recordMigrations}: a document a row, since
 * records are all kept in memory and nothing is searched for here.
 */
export function createRecordStores(database: Database) {
  const rows = database.sequelize.define<Model<Row> & Row>('ownedRecord', columns(), {
    tableName: 'owned_records',
  });
  return <R extends OwnedRecord>(kind: string): RecordStore<R> => ({
    async all() {
      const found = await rows.findAll({ where: { kind } });
      return found.map(({ document }) => JSON.parse(document) as R); // what `save` has written
    },
    async save(record) {
      const row = { id: record.id, kind, document: JSON.stringify(record) };
      await database.transaction((transaction) => rows.upsert(row, { transaction }));
    },
    async remove(id) {
      await database.transaction((transaction) => rows.destroy({ where: { id }, transaction }));
    },
  });
}
