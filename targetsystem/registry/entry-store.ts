import type { Model } from 'sequelize';
import type { Database } from '#kernel/persistence/database.js';
import { column, type Migration } from '#kernel/persistence/migrate.js';
import type { RegistryEntry } from './entries.js';

/** The durable records. `save` returns when the record would survive a power cut. */
export type EntryStore = {
  all(): Promise<RegistryEntry[]>;
  save(entry: RegistryEntry): Promise<void>;
  remove(id: string): Promise<void>;
};

export const registryMigrations: readonly Migration[] = [
  {
    name: '001-registry-entries',
    up: (schema, transaction) =>
      schema.createTable(
        'registry_entries',
        { id: column.id({ primaryKey: true }), document: column.text() },
        { transaction },
      ),
  },
];

type Row = { id: string; document: string };

/** {@link EntryStore} in the service's database, after {@link registryMigrations}. */
export function createEntryStore(database: Database): EntryStore {
  const rows = database.sequelize.define<Model<Row> & Row>(
    'registryEntry',
    { id: column.id({ primaryKey: true }), document: column.text() },
    { tableName: 'registry_entries' },
  );
  return {
    async all() {
      const found = await rows.findAll();
      return found.map(({ document }) => JSON.parse(document) as RegistryEntry); // written below
    },
    async save(entry) {
      const row = { id: entry.id, document: JSON.stringify(entry) };
      await database.transaction((transaction) => rows.upsert(row, { transaction }));
    },
    async remove(id) {
      await database.transaction((transaction) => rows.destroy({ where: { id }, transaction }));
    },
  };
}
