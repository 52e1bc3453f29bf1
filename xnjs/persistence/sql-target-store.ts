import { Op, type Model, type Transaction } from 'sequelize';
import { systemClock } from '#kernel/clock.js';
import { GridError } from '#kernel/errors.js';
import type { Database } from '#kernel/persistence/database.js';
import { ChangeLog } from '#kernel/persistence/change-log.js';
import { column, type Migration } from '#kernel/persistence/migrate.js';
import type { SiteChange } from '../changes/site-change.js';
import { localHost } from '../vm/hosts/host.js';
import type { TargetStore } from '../vm/target-store.js';
import type { Spare, SpareStore } from '../vm/tiers/spare.js';
import type { TargetSystem } from '../vm/target-system.js';
import { GroupCommit } from './group-commit.js';
import { changesTable } from './job-models.js';
import { claim, claimMigrations, release, sumOf } from './quota-claims.js';
import type { Lease } from './sql-lease.js';

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
  {
    name: '002-removed-target-systems',
    up: (schema, transaction) =>
      schema.createTable(
        'removed_target_systems',
        { id: column.id({ primaryKey: true }), removed_ms: column.number() },
        { transaction },
      ),
  },
  ...claimMigrations,
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
/** By then whatever was under way when a target system was removed has ended. */
const keepRemovedMs = 90 * 86_400_000;

/** One document a row: target systems are all kept in memory, nothing is searched for here. */
type TargetRow = { id: string; document: string };
type RemovedRow = { id: string; removedMs: number };
type Saved = { readonly system: TargetSystem; readonly body: SiteChange | undefined };

const upsertText =
  'INSERT INTO target_systems (id, document) VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET document = excluded.document';

/** Records of versions that knew one host say nothing of it. */
const atHost = { host: localHost };

/**
 * {@link TargetStore} in the service's database, after {@link targetMigrations} and the jobs'.
 * @param onLogged called after a commit that has logged a change
 * @param lease without which nothing is written; absent: this server is alone
 */
export function createTargetStore(
  database: Database,
  onLogged?: () => void,
  lease?: Pick<Lease, 'require' | 'fence'>,
): TargetStore {
  return createTargetStores(database, onLogged, lease).targets;
}

/** Beside it the spares, which become target systems: after {@link spareMigrations} too. */
export function createTargetStores(
  database: Database,
  onLogged?: () => void,
  lease?: Pick<Lease, 'require' | 'fence'>,
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
  const removed = database.sequelize.define<Model<RemovedRow> & RemovedRow>(
    'removedTargetSystem',
    { id: column.id({ primaryKey: true }), removedMs: column.number() },
    { tableName: 'removed_target_systems' },
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
      await lease?.require(transaction);
      await work(transaction);
      if (body) await changes.append({ type: 'site', ...about, body }, transaction);
    });
    if (body) onLogged?.();
  };
  // by hand: when a server with many machines starts, or loses a hypervisor, all of them have news
  const saves = new GroupCommit<Saved, void>(async (group) => {
    const statements = group.flatMap(({ system, body }) => [
      { text: upsertText, values: [system.id, JSON.stringify(system)] },
      ...changes.statements(
        body ? [{ type: 'site', subject: system.id, ownerDn: system.ownerDn, body }] : [],
      ),
    ]);
    try {
      await database.write([...(lease?.fence ?? []), ...statements]);
    } catch (error) {
      await lease?.require();
      throw error;
    }
    return group.map(() => ({ value: undefined }));
  });
  const targets: TargetStore = {
    async all() {
      const found = await rows.findAll();
      return found.map(({ document }) => ({
        ...atHost,
        ...(JSON.parse(document) as TargetSystem), // written below
      }));
    },
    async save(system, body, quotas) {
      if (!quotas) {
        await saves.add({ system, body });
        if (body) onLogged?.();
        return;
      }
      const row = { id: system.id, document: JSON.stringify(system) };
      await commit({ subject: system.id, ownerDn: system.ownerDn, body }, async (transaction) => {
        await claim(database, system, quotas, transaction);
        await rows.upsert(row, { transaction });
      });
    },
    async remove({ id, ownerDn }, body) {
      await commit({ subject: id, ownerDn, body }, async (transaction) => {
        await release(database.sequelize, id, transaction);
        if ((await rows.destroy({ where: { id }, transaction })) === 0) return;
        const removedMs = systemClock.now();
        await removed.upsert({ id, removedMs }, { transaction });
        const old = { [Op.lt]: removedMs - keepRemovedMs };
        await removed.destroy({ where: { removedMs: old }, transaction });
      });
    },
    async wasRemoved(id) {
      return (await removed.findByPk(id)) !== null;
    },
    used: async (scope) => await sumOf(database.sql, scope),
  };
  const spares: SpareStore = {
    async all() {
      const found = await spareRows.findAll();
      return found.map(({ document }) => ({
        ...atHost,
        ...(JSON.parse(document) as Spare), // written below
      }));
    },
    async save(spare) {
      const row = { id: spare.id, document: JSON.stringify(spare) };
      await database.transaction(async (transaction) => {
        await lease?.require(transaction);
        await spareRows.upsert(row, { transaction });
      });
    },
    async remove(id) {
      await database.transaction(async (transaction) => {
        await lease?.require(transaction);
        await spareRows.destroy({ where: { id }, transaction });
      });
    },
    async claim(system, body, quotas) {
      const row = { id: system.id, document: JSON.stringify(system) };
      await commit({ subject: system.id, ownerDn: system.ownerDn, body }, async (transaction) => {
        const count = await spareRows.destroy({ where: { id: system.id }, transaction });
        if (count !== 1) throw new GridError('CONFLICT', 'the spare machine is gone');
        if (quotas) await claim(database, system, quotas, transaction);
        await rows.create(row, { transaction });
      });
    },
  };
  return { targets, spares };
}
