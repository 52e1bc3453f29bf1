import { Op, QueryTypes, type Model, type Transaction } from 'sequelize';
import { systemClock, type Clock } from '#kernel/clock.js';
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

/** Whether this database has had a target system at all. */
const anyText = 'SELECT id FROM target_systems UNION SELECT id FROM removed_target_systems LIMIT 1';
/** The row of {@link NotesRow}. */
const theNotes = 'removals';

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
  {
    name: '005-notes-of-removals',
    up: async (schema, transaction) => {
      await schema.createTable(
        'removal_notes',
        {
          id: column.id({ primaryKey: true }),
          since_ms: column.number(),
          dropped_until_ms: column.number(),
        },
        { transaction },
      );
      const found = await schema.sequelize.query(anyText, { type: QueryTypes.SELECT, transaction });
      const now = systemClock.now();
      // an earlier version may have dropped some
      const dropped = found.length > 0 ? now - keepRemovedMs : 0;
      const row = { id: theNotes, since_ms: now, dropped_until_ms: dropped };
      await schema.bulkInsert('removal_notes', [row], { transaction });
    },
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
/** By then whatever was under way when a target system was removed has ended; hosts may be away for longer. */
const keepRemovedMs = 90 * 86_400_000;

/** One document a row: target systems are all kept in memory, nothing is searched for here. */
type TargetRow = { id: string; document: string };
type RemovedRow = { id: string; removedMs: number };
/** Since when this database has noted removals, and up to when it has dropped these notes (0: none). */
type NotesRow = { id: string; sinceMs: number; droppedUntilMs: number };
type Saved = { readonly system: TargetSystem; readonly body: SiteChange | undefined };

const upsertText =
  'INSERT INTO target_systems (id, document) VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET document = excluded.document';

/** Thousands at once, and what is read of them, would be the most memory that a server ever needs. */
const pageText = 'SELECT id, document FROM target_systems WHERE id > $1 ORDER BY id LIMIT 200';

/** Records of versions that knew one host say nothing of it. */
const atHost = { host: localHost };

/** Without it nothing is written; absent: this server is alone. */
type Fence = Pick<Lease, 'require' | 'fence'> | undefined;

type Logged = {
  readonly subject: string;
  readonly ownerDn: string;
  readonly body?: SiteChange | undefined;
};

/** Tables and transactions that target systems and spares share. */
class Tables {
  readonly database: Database;
  readonly lease: Fence;
  readonly changes: ChangeLog;
  readonly systems;
  readonly spares;
  readonly removed;
  readonly notes;
  readonly clock: Clock;
  /** Called after a commit that has logged a change. */
  readonly onLogged: (() => void) | undefined;

  constructor(database: Database, onLogged: (() => void) | undefined, lease: Fence, clock: Clock) {
    this.database = database;
    this.clock = clock;
    this.lease = lease;
    this.onLogged = onLogged;
    this.changes = new ChangeLog(database, changesTable);
    this.systems = database.sequelize.define<Model<TargetRow> & TargetRow>(
      'targetSystem',
      { id: column.id({ primaryKey: true }), document: column.text() },
      { tableName: 'target_systems' },
    );
    this.spares = database.sequelize.define<Model<TargetRow> & TargetRow>(
      'spare',
      { id: column.id({ primaryKey: true }), document: column.text() },
      { tableName: 'spares' },
    );
    this.removed = database.sequelize.define<Model<RemovedRow> & RemovedRow>(
      'removedTargetSystem',
      { id: column.id({ primaryKey: true }), removedMs: column.number() },
      { tableName: 'removed_target_systems' },
    );
    this.notes = database.sequelize.define<Model<NotesRow> & NotesRow>(
      'removalNotes',
      {
        id: column.id({ primaryKey: true }),
        sinceMs: column.number(),
        droppedUntilMs: column.number(),
      },
      { tableName: 'removal_notes' },
    );
  }

  async commit(
    { body, ...about }: Logged,
    work: (transaction: Transaction) => Promise<unknown>,
  ): Promise<void> {
    await this.database.transaction(async (transaction) => {
      await this.lease?.require(transaction);
      await work(transaction);
      if (body) await this.changes.append({ type: 'site', ...about, body }, transaction);
    });
    if (body) this.onLogged?.();
  }
}

/**
 * {@link TargetStore} in the service's database, after {@link targetMigrations} and the jobs'.
 * @param onLogged called after a commit that has logged a change
 */
export function createTargetStore(
  database: Database,
  onLogged?: () => void,
  lease?: Fence,
  clock: Clock = systemClock,
): TargetStore {
  return createTargetStores(database, onLogged, lease, clock).targets;
}

/** Beside it the spares, which become target systems: after {@link spareMigrations} too. */
export function createTargetStores(
  database: Database,
  onLogged?: () => void,
  lease?: Fence,
  clock: Clock = systemClock,
): { readonly targets: TargetStore; readonly spares: SpareStore } {
  const tables = new Tables(database, onLogged, lease, clock);
  return { targets: targetStore(tables), spares: spareStore(tables) };
}

/** By hand: when a server with many machines starts, or loses a hypervisor, all of them have news. */
function groupSaves({ database, changes, lease }: Tables): GroupCommit<Saved, void> {
  return new GroupCommit<Saved, void>(async (group) => {
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
}

function targetStore(tables: Tables): TargetStore {
  const { database, systems, removed, notes, clock } = tables;
  const saves = groupSaves(tables);
  return {
    async *all() {
      for (let last = ''; ;) {
        const found = await database.sql<TargetRow>(pageText, [last]);
        for (const { document } of found)
          yield { ...atHost, ...(JSON.parse(document) as TargetSystem) }; // written below
        const end = found.at(-1);
        if (!end) return;
        last = end.id;
      }
    },
    async save(system, body, quotas) {
      if (!quotas) {
        await saves.add({ system, body });
        if (body) tables.onLogged?.();
        return;
      }
      const { id, ownerDn } = system;
      await tables.commit({ subject: id, ownerDn, body }, async (transaction) => {
        await claim(database, system, quotas, transaction);
        await systems.upsert({ id, document: JSON.stringify(system) }, { transaction });
      });
    },
    async remove({ id, ownerDn }, body) {
      await tables.commit({ subject: id, ownerDn, body }, async (transaction) => {
        await release(database.sequelize, id, transaction);
        if ((await systems.destroy({ where: { id }, transaction })) === 0) return;
        const removedMs = clock.now();
        await removed.upsert({ id, removedMs }, { transaction });
        await dropOld(tables, removedMs - keepRemovedMs, transaction);
      });
    },
    async has(id) {
      return (await database.sql('SELECT id FROM target_systems WHERE id = $1', [id])).length > 0;
    },
    async wasRemoved(id) {
      return (await removed.findByPk(id)) !== null;
    },
    async noteRemoved(id) {
      await database.transaction(async (transaction) => {
        await tables.lease?.require(transaction);
        await removed.upsert({ id, removedMs: clock.now() }, { transaction });
      });
    },
    async absenceOf(createdMs) {
      const { sinceMs = Infinity, droppedUntilMs = 0 } = (await notes.findByPk(theNotes)) ?? {};
      if (droppedUntilMs === 0 || createdMs > droppedUntilMs) return 'lost';
      return createdMs >= sinceMs ? 'removed' : 'unclear';
    },
    used: async (scope) => await sumOf(database.sql, scope),
  };
}

/** That there were such notes is kept. */
async function dropOld(
  { removed, notes }: Tables,
  beforeMs: number,
  transaction: Transaction,
): Promise<void> {
  const old = { removedMs: { [Op.lt]: beforeMs } };
  const count = await removed.destroy({ where: old, transaction });
  if (count > 0)
    await notes.update({ droppedUntilMs: beforeMs }, { where: { id: theNotes }, transaction });
}

function spareStore(tables: Tables): SpareStore {
  const { database, systems, spares, removed, lease } = tables;
  const write = async (work: (transaction: Transaction) => Promise<unknown>): Promise<void> => {
    await database.transaction(async (transaction) => {
      await lease?.require(transaction);
      await work(transaction);
    });
  };
  return {
    async all() {
      const found = await spares.findAll();
      return found.map(({ document }) => ({
        ...atHost,
        ...(JSON.parse(document) as Spare), // written below
      }));
    },
    async save(spare) {
      const row = { id: spare.id, document: JSON.stringify(spare) };
      await write((transaction) => spares.upsert(row, { transaction }));
    },
    async remove(id, mayBeLeft) {
      await write(async (transaction) => {
        await spares.destroy({ where: { id }, transaction });
        if (mayBeLeft) await removed.upsert({ id, removedMs: systemClock.now() }, { transaction });
      });
    },
    async claim(system, body, quotas) {
      const { id, ownerDn } = system;
      await tables.commit({ subject: id, ownerDn, body }, async (transaction) => {
        const count = await spares.destroy({ where: { id }, transaction });
        if (count !== 1) throw new GridError('CONFLICT', 'the spare machine is gone');
        if (quotas) await claim(database, system, quotas, transaction);
        await systems.create({ id, document: JSON.stringify(system) }, { transaction });
      });
    },
  };
}
