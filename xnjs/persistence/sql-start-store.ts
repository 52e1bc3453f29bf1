import type { Database } from '#kernel/persistence/database.js';
import { column, type Migration } from '#kernel/persistence/migrate.js';
import type { Start, StartStore } from '../vm/placement/starts.js';

export const startMigrations: readonly Migration[] = [
  {
    name: '001-starts',
    up: async (schema, transaction) => {
      const columns = {
        target_id: column.id({ primaryKey: true }),
        image_id: column.id(),
        tier: column.word(),
        duration_ms: column.number(),
        at_ms: column.number(),
      };
      await schema.createTable('starts', columns, { transaction });
      const fields = ['image_id', 'tier', 'at_ms'];
      await schema.addIndex('starts', { name: 'starts_by_image', fields, transaction });
    },
  },
];

/** So many are kept of each image and tier: what was long ago says little of what comes. */
const kept = 100;

/** {@link StartStore} in the service's database, after {@link startMigrations}. */
export function createStartStore(database: Database): StartStore {
  return {
    async add({ targetId, imageId, tier, durationMs, atMs }) {
      await database.write([
        {
          text:
            'INSERT INTO starts (target_id, image_id, tier, duration_ms, at_ms) ' +
            'VALUES ($1, $2, $3, $4, $5) ON CONFLICT (target_id) DO NOTHING',
          values: [targetId, imageId, tier, durationMs, atMs],
        },
        {
          text:
            'DELETE FROM starts WHERE image_id = $1 AND tier = $2 AND target_id NOT IN ' +
            '(SELECT target_id FROM starts WHERE image_id = $1 AND tier = $2 ' +
            `ORDER BY at_ms DESC LIMIT ${kept})`,
          values: [imageId, tier],
        },
      ]);
    },
    async latest(imageId) {
      type Row = { tier: Start['tier']; ms: number };
      const text = 'SELECT tier, duration_ms AS ms FROM starts WHERE image_id = $1';
      const rows = await database.sql<Row>(text, [imageId]);
      return rows.map(({ tier, ms }) => ({ tier, durationMs: ms }));
    },
  };
}
