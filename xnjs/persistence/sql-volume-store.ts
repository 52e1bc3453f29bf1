import type { Transaction } from 'sequelize';
import type { Database } from '#kernel/persistence/database.js';
import { sequelizeSql } from '#kernel/persistence/sql.js';
import { checkQuota, nothing } from '../vm/placement/quota.js';
import type { Volume } from '../vm/volumes/volume.js';
import type { VolumeStore } from '../vm/volumes/volumes.js';
import { lockClaims, sumOf } from './quota-claims.js';
import type { Lease } from './sql-lease.js';

const insertText = 'INSERT INTO volumes VALUES ($1, $2, $3, $4, $5, $6)';
const updateText = 'UPDATE volumes SET document = $2 WHERE id = $1';

/** {@link VolumeStore} in the service's database, after the migrations of target systems. */
export function createVolumeStore(database: Database, lease?: Pick<Lease, 'require'>): VolumeStore {
  const { sequelize } = database;
  const write = async (work: (within: Transaction) => Promise<unknown>): Promise<void> => {
    await database.transaction(async (within) => {
      await lease?.require(within);
      await work(within);
    });
  };
  return {
    async all() {
      const rows = await database.sql<{ document: string }>('SELECT document FROM volumes', []);
      return rows.map(({ document }) => JSON.parse(document) as Volume); // written below
    },
    async create(volume, quotas) {
      const { id, ownerDn, sizeMiB, countsFor: { vo = '', group = '' } = {} } = volume;
      const asked = { ...nothing, diskMiB: sizeMiB };
      await write(async (within) => {
        await lockClaims(sequelize, within);
        const ownSql = sequelizeSql(sequelize, within);
        for (const quota of quotas) checkQuota(quota, await sumOf(ownSql, quota.scope), asked);
        const bind = [id, JSON.stringify(volume), ownerDn, vo, group, sizeMiB];
        await sequelize.query(insertText, { bind, transaction: within });
      });
    },
    async save(volume) {
      const bind = [volume.id, JSON.stringify(volume)];
      await write((within) => sequelize.query(updateText, { bind, transaction: within }));
    },
    async remove(id) {
      const text = 'DELETE FROM volumes WHERE id = $1';
      await write((within) => sequelize.query(text, { bind: [id], transaction: within }));
    },
  };
}
