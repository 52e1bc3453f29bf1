import type { Model } from 'sequelize';
import type { Database } from '#kernel/persistence/database.js';
import { column, type Migration } from '#kernel/persistence/migrate.js';
import type { CreatedStorage, StorageSettings, StorageStore } from '../storage/storage.js';

const columns = () => ({
  id: column.word({ primaryKey: true }),
  /** `created`, or `settings` of a storage that is there anyway. */
  kind: column.word(),
  document: column.text(),
});

export const storageMigrations: readonly Migration[] = [
  {
    name: '001-storages',
    up: (schema, transaction) =>
      schema.createTable(
        'storages',
        {
          id: column.word({ primaryKey: true }),
          kind: column.word(),
          document: column.text(),
        },
        { transaction },
      ),
  },
];

/** One document a row: storages are all kept in memory, nothing is searched for here. */
type StorageRow = { id: string; kind: 'created' | 'settings'; document: string };

/** {@link StorageStore} in the service's database, after {@link storageMigrations}. */
export function createStorageStore(database: Database): StorageStore {
  const rows = database.sequelize.define<Model<StorageRow> & StorageRow>('storage', columns(), {
    tableName: 'storages',
  });
  const upsert = async (row: StorageRow): Promise<void> => {
    await database.transaction((transaction) => rows.upsert(row, { transaction }));
  };
  return {
    async all() {
      const found = await rows.findAll();
      // both were written below
      return {
        created: found
          .filter(({ kind }) => kind === 'created')
          .map(({ document }) => JSON.parse(document) as CreatedStorage),
        settings: new Map(
          found
            .filter(({ kind }) => kind === 'settings')
            .map(({ id, document }) => [id, JSON.parse(document) as StorageSettings]),
        ),
      };
    },
    save: (storage) =>
      upsert({ id: storage.id, kind: 'created', document: JSON.stringify(storage) }),
    saveSettings: (id, settings) =>
      upsert({ id, kind: 'settings', document: JSON.stringify(settings) }),
    async remove(id) {
      await database.transaction((transaction) => rows.destroy({ where: { id }, transaction }));
    },
  };
}
