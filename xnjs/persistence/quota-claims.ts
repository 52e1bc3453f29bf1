import type { Transaction } from 'sequelize';
import type { Database } from '#kernel/persistence/database.js';
import { column, type Migration } from '#kernel/persistence/migrate.js';
import { sequelizeSql, type Sql } from '#kernel/persistence/sql.js';
import {
  amountsOf,
  checkQuota,
  type Amounts,
  type Quota,
  type QuotaScope,
} from '../vm/placement/quota.js';
import type { TargetSystem } from '../vm/target-system.js';

/** What each target system takes of whose quota, beside its record: sums of documents would be slow. */
export const claimMigrations: readonly Migration[] = [
  {
    name: '003-quota-claims',
    up: async (schema, transaction) => {
      const columns = {
        target_id: column.id({ primaryKey: true }),
        owner_dn: column.text(),
        vo: column.text(),
        user_group: column.text(),
        cpus: column.number(),
        memory_mib: column.number(),
        disk_mib: column.number(),
      };
      await schema.createTable('quota_claims', columns, { transaction });
      for (const field of ['owner_dn', 'vo', 'user_group']) {
        const index = { name: `quota_claims_by_${field}`, fields: [field], transaction };
        await schema.addIndex('quota_claims', index);
      }
      // those of an earlier version count too
      const sql = sequelizeSql(schema.sequelize, transaction);
      const rows = await sql<{ document: string }>('SELECT document FROM target_systems', []);
      for (const { document } of rows)
        await insert(schema.sequelize, JSON.parse(document) as TargetSystem, transaction);
    },
  },
  {
    // volumes that outlive machines count by themselves: what they take stands beside their documents
    name: '004-volumes',
    up: async (schema, transaction) => {
      const columns = {
        id: column.id({ primaryKey: true }),
        document: column.text(),
        owner_dn: column.text(),
        vo: column.text(),
        user_group: column.text(),
        disk_mib: column.number(),
      };
      await schema.createTable('volumes', columns, { transaction });
      for (const field of ['owner_dn', 'vo', 'user_group']) {
        const index = { name: `volumes_by_${field}`, fields: [field], transaction };
        await schema.addIndex('volumes', index);
      }
    },
  },
];

/** Whoever else takes from quotas waits until the transaction has ended. */
export async function lockClaims(
  sequelize: Database['sequelize'],
  transaction: Transaction,
): Promise<void> {
  // SQLite's transactions have the one write lock from their beginning
  if (sequelize.getDialect() === 'postgres')
    await sequelize.query('LOCK TABLE quota_claims IN SHARE ROW EXCLUSIVE MODE', { transaction });
}

/**
 * Takes from the quotas what the target system needs, in the transaction that stores it: whoever else does so,
 * on this server or another, waits until that has ended.
 * @throws `QUOTA_EXCEEDED`
 */
export async function claim(
  { sequelize }: Database,
  system: TargetSystem,
  quotas: readonly Quota[],
  transaction: Transaction,
): Promise<void> {
  const sql = sequelizeSql(sequelize, transaction);
  await lockClaims(sequelize, transaction);
  await release(sequelize, system.id, transaction);
  const asked = amountsOf(system);
  for (const quota of quotas) checkQuota(quota, await sumOf(sql, quota.scope), asked);
  await insert(sequelize, system, transaction);
}

/** Gives back what it has taken. */
export async function release(
  sequelize: Database['sequelize'],
  id: string,
  transaction: Transaction,
): Promise<void> {
  await sequelize.query('DELETE FROM quota_claims WHERE target_id = $1', {
    bind: [id],
    transaction,
  });
}

const columnOf = { user: 'owner_dn', vo: 'vo', group: 'user_group' } as const;

export async function sumOf(sql: Sql, { kind, name }: QuotaScope): Promise<Amounts> {
  const isSite = kind === 'site';
  const where = isSite ? '' : ` WHERE ${columnOf[kind]} = $1`;
  const bind = isSite ? [] : [name];
  const sums = 'COUNT(*) AS n, SUM(cpus) AS cpus, SUM(memory_mib) AS memory, SUM(disk_mib) AS disk';
  const [row] = await sql<Record<'n' | 'cpus' | 'memory' | 'disk', unknown>>(
    `SELECT ${sums} FROM quota_claims${where}`,
    bind,
  );
  const [volumes] = await sql<{ disk: unknown }>(
    `SELECT SUM(disk_mib) AS disk FROM volumes${where}`,
    bind,
  );
  const number = (value: unknown): number => Number(value ?? 0); // PostgreSQL counts in texts
  return {
    targetSystems: number(row?.n),
    cpus: number(row?.cpus),
    memoryMiB: number(row?.memory),
    diskMiB: number(row?.disk) + number(volumes?.disk),
  };
}

async function insert(
  sequelize: Database['sequelize'],
  system: TargetSystem,
  transaction: Transaction,
): Promise<void> {
  const { id, ownerDn, countsFor: { vo = '', group = '' } = {} } = system;
  const { cpus, memoryMiB, diskMiB } = amountsOf(system);
  const bind = [id, ownerDn, vo, group, cpus, memoryMiB, diskMiB];
  const text = 'INSERT INTO quota_claims VALUES ($1, $2, $3, $4, $5, $6, $7)';
  await sequelize.query(text, { bind, transaction });
}
