import type { Model } from 'sequelize';
import type { Database } from '#kernel/persistence/database.js';
import { column, type Migration } from '#kernel/persistence/migrate.js';

/** What administrators have changed while the server runs, by name. */
export type SettingsStore = {
  get(name: string): Promise<unknown>;
  /** Returns when it would survive a power cut. */
  set(name: string, value: object): Promise<void>;
};

export const settingsMigrations: readonly Migration[] = [
  {
    name: '001-settings',
    up: (schema, transaction) =>
      schema.createTable(
        'settings',
        { name: column.word({ primaryKey: true }), document: column.text() },
        { transaction },
      ),
  },
];

type Row = { name: string; document: string };

/** {@link SettingsStore} in the service's database, after {@link settingsMigrations}. */
export function createSettingsStore(database: Database): SettingsStore {
  const rows = database.sequelize.define<Model<Row> & Row>(
    'setting',
    { name: column.word({ primaryKey: true }), document: column.text() },
    { tableName: 'settings' },
  );
  return {
    async get(name) {
      const row = await rows.findByPk(name);
      return row ? (JSON.parse(row.document) as unknown) : undefined;
    },
    async set(name, value) {
      const row = { name, document: JSON.stringify(value) };
      await database.transaction((transaction) => rows.upsert(row, { transaction }));
    },
  };
}
