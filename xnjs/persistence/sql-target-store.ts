import type { Model, Transaction } from 'sequelize';
import { GridError } from '#kernel/errors.js';
import type { Database } from '#kernel/persistence/database.js';
import { ChangeLog } from '#kernel/persistence/change-log.js';
import { column, type Migration } from '#kernel/persistence/migrate.js';
import type { SiteChange } from '../changes/site-change.js';
import type { TargetStore } from '../vm/target-store.js';
import type { Spare, SpareStore } from '../vm/tiers/spare.js';
import type { TargetSystem } from '../vm/target-system.js';
import { changesTable } from './job-models.js';

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

/** Machines that are nobody's yet (ADR 035). */
export const spareMigrations: readonly Migration[] = [
  {
    name: '001-spares',
    up: (schema, transaction) =>
      schema.createTable(
        'spares',
        { id: column.id({ primaryKey: true }), document: column.text() },
        { transaction },
      ),
  },
];

/** One document a row: target systems are all kept in memory, nothing is searched for here. */
type TargetRow = { id: string; document: string };

/**
 * {@link TargetStore} in the service's database, after {@link targetMigrations} and the jobs'.
 * @param onLogged called after a commit that has logged a change
 */
export function createTargetStore(database: Database, onLogged?: () => void): TargetStore {
  return createTargetStores(database, onLogged).targets;
}

/** Beside it the spares, which become target systems: after {@link spareMigrations} too. */
export function createTargetStores(
  database: Database,
  onLogged?: () => void,
): { readonly targets: TargetStore; readonly spares: SpareStore } {
  const changes = new ChangeLog(database, changesTable);
  const rows = database.sequelize.define<Model<TargetRow> & TargetRow>(
    'targetSystem',
    { id: column.id({ primaryKey: true }), document: column.text() },
    { tableName: 'target_systems' },
  );
  const spareRows = database.sequelize.define<Model<TargetRow> & TargetRow>(
    'spare',
    { id: column.id({ primaryKey: true }), document: column.text() },
    { tableName: 'spares' },
  );
  type Logged = {
    readonly subject: string;
    readonly ownerDn: string;
    readonly body?: SiteChange | undefined;
  };
  const commit = async (
    { body, ...about }: Logged,
    work: (transaction: Transaction) => Promise<unknown>,
  ): Promise<void> => {
    await database.transaction(async (transaction) => {
      await work(transaction);
      if (body) await changes.append({ type: 'site', ...about, body }, transaction);
    });
    if (body) onLogged?.();
  };
  const targets: TargetStore = {
    async all() {
      const found = await rows.findAll();
      return found.map(({ document }) => JSON.parse(document) as TargetSystem); // written below
    },
    async save(system, body) {
      const row = { id: system.id, document: JSON.stringify(system) };
      await commit({ subject: system.id, ownerDn: system.ownerDn, body }, (transaction) =>
        rows.upsert(row, { transaction }),
      );
    },
    async remove({ id, ownerDn }, body) {
      await commit({ subject: id, ownerDn, body }, (transaction) =>
        rows.destroy({ where: { id }, transaction }),
      );
    },
  };
  const spares: SpareStore = {
    async all() {
      const found = await spareRows.findAll();
      return found.map(({ document }) => JSON.parse(document) as Spare); // written below
    },
    async save(spare) {
      const row = { id: spare.id, document: JSON.stringify(spare) };
      await database.transaction((transaction) => spareRows.upsert(row, { transaction }));
    },
    async remove(id) {
      await database.transaction((transaction) =>
        spareRows.destroy({ where: { id }, transaction }),
      );
    },
    async claim(system, body) {
      const row = { id: system.id, document: JSON.stringify(system) };
      await commit({ subject: system.id, ownerDn: system.ownerDn, body }, async (transaction) => {
        const count = await spareRows.destroy({ where: { id: system.id }, transaction });
        if (count !== 1) throw new GridError('CONFLICT', 'the spare machine is gone');
        await rows.create(row, { transaction });
      });
    },
  };
  return { targets, spares };
}
