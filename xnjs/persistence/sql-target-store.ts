import type { Model } from 'sequelize';
import type { Database } from '#kernel/persistence/database.js';
import { column, type Migration } from '#kernel/persistence/migrate.js';
import type { TargetStore } from '../vm/target-store.js';
import type { TargetSystem } from '../vm/target-system.js';

export const targetMigrations: readonly Migration[] = [
  {
    name: '001-target-systems',
    up: (schema, transaction) =>
      schema.createTable(
        'target_systems',
        { id: column.id({ primaryKey: true }), document: column.text() },
        { transaction },
      ),
  },
];

/** One document a row: target systems are all kept in memory, nothing is searched for here. */
type TargetRow = { id: string; document: string };

/** {@link TargetStore} in the service's database, after {@link targetMigrations}. */
export function createTargetStore(database: Database): TargetStore {
  const rows = database.sequelize.define<Model<TargetRow> & TargetRow>(
    'targetSystem',
    { id: column.id({ primaryKey: true }), document: column.text() },
    { tableName: 'target_systems' },
  );
  return {
    async all() {
      const found = await rows.findAll();
      return found.map(({ document }) => JSON.parse(document) as TargetSystem); // written below
    },
    async save(system) {
      const row = { id: system.id, document: JSON.stringify(system) };
      await database.transaction((transaction) => rows.upsert(row, { transaction }));
    },
    async remove(id) {
      await database.transaction((transaction) => rows.destroy({ where: { id }, transaction }));
    },
  };
}
