import { col, fn, literal, Op, type Model, type WhereOptions } from 'sequelize';
import type { Database } from '#kernel/persistence/database.js';
import { column, type Migration } from '#kernel/persistence/migrate.js';
import type { SqlValue, Statement } from '#kernel/persistence/sql.js';
import { counterNames, type Usage, type UsageOfOwner, type UsageStore } from '../vm/usage.js';

const columns = () => ({
  id: column.id({ primaryKey: true }),
  ownerDn: column.word({ field: 'owner_dn' }),
  startedMs: column.number({ field: 'started_ms' }),
  measuredMs: column.number({ field: 'measured_ms' }),
  /** 0: its machine runs */
  endedMs: column.number({ field: 'ended_ms' }),
  cpuMs: column.number({ field: 'cpu_ms' }),
  diskReadBytes: column.number({ field: 'disk_read_bytes' }),
  diskWrittenBytes: column.number({ field: 'disk_written_bytes' }),
  networkReceivedBytes: column.number({ field: 'network_received_bytes' }),
  networkSentBytes: column.number({ field: 'network_sent_bytes' }),
  /** All of it. */
  document: column.text(),
});
type Row = Record<'id' | 'ownerDn' | 'document', string> &
  Record<'startedMs' | 'measuredMs' | 'endedMs' | (typeof counterNames)[number], number>;

export const usageMigrations: readonly Migration[] = [
  {
    name: '001-usage',
    up: async (schema, transaction) => {
      const byField = Object.entries(columns()).map(([name, each]): [string, typeof each] => [
        each.field ?? name,
        each,
      ]);
      await schema.createTable('usage', Object.fromEntries(byField), { transaction });
      for (const field of ['owner_dn', 'ended_ms'])
        await schema.addIndex('usage', { name: `usage_by_${field}`, fields: [field], transaction });
    },
  },
];

/** Below what databases take of values in one statement. */
const rowsPerStatement = 50;

/** {@link UsageStore} in the service's database, after {@link usageMigrations}. */
export function createUsageStore(database: Database): UsageStore {
  const rows = database.sequelize.define<Model<Row> & Row>('usage', columns(), {
    tableName: 'usage',
  });
  const toUsage = ({ document }: Row): Usage => JSON.parse(document) as Usage; // what `save` has written
  return {
    async unfinished() {
      return (await rows.findAll({ where: { endedMs: 0 } })).map(toUsage);
    },
    async find(id) {
      const row = await rows.findByPk(id);
      return row ? toUsage(row) : undefined;
    },
    async save(usages) {
      const statements: Statement[] = [];
      for (let first = 0; first < usages.length; first += rowsPerStatement)
        statements.push(upsert(usages.slice(first, first + rowsPerStatement)));
      await database.write(statements);
    },
    async list({ ownerDn, sinceMs }, { offset, num }) {
      const where: WhereOptions<Row> = {
        ...(ownerDn !== undefined && { ownerDn }),
        ...(sinceMs !== undefined && {
          [Op.or]: [{ endedMs: 0 }, { endedMs: { [Op.gt]: sinceMs } }],
        }),
      };
      const order: [string, string][] = [
        ['startedMs', 'DESC'],
        ['id', 'DESC'],
      ];
      const { rows: found, count } = await rows.findAndCountAll({
        ...{ where, order, offset, limit: num },
      });
      return { usages: found.map(toUsage), total: count };
    },
    async sums() {
      const until = literal(
        'CASE WHEN ended_ms = 0 THEN measured_ms ELSE ended_ms END - started_ms',
      );
      const of = (name: (typeof counterNames)[number]) => col(columns()[name].field ?? name);
      const counters = counterNames.map((name): [ReturnType<typeof fn>, string] => [
        fn('SUM', of(name)),
        name,
      ]);
      const found = await rows.findAll({
        attributes: ['ownerDn', ...counters, [fn('SUM', until), 'wallMs']],
        group: ['ownerDn'],
        order: [['ownerDn', 'ASC']],
        raw: true,
      });
      return found as unknown as UsageOfOwner[]; // what is selected above
    },
    async prune(beforeMs) {
      const where = { endedMs: { [Op.gt]: 0, [Op.lt]: beforeMs } };
      return await database.transaction((transaction) => rows.destroy({ where, transaction }));
    },
  };
}

const names = Object.keys(columns()) as (keyof Row)[]; // as: the columns are those of a row
const fields = Object.entries(columns()).map(([name, { field = name }]) => field);
/** The same each time but for the last. */
const fullUpsert = upsertText(rowsPerStatement);

/** By hand, many in one: each machine's row is written again each time that all are measured. */
function upsert(usages: readonly Usage[]): Statement {
  const text = usages.length === rowsPerStatement ? fullUpsert : upsertText(usages.length);
  const values: SqlValue[] = [];
  for (const usage of usages) {
    const row = toRow(usage);
    for (const name of names) values.push(row[name]);
  }
  return { text, values };
}

function upsertText(rows: number): string {
  const tuples = Array.from(
    { length: rows },
    (_, row) => `(${fields.map((_, at) => `$${row * fields.length + at + 1}`).join(', ')})`,
  );
  const set = fields.map((field) => `${field} = excluded.${field}`).join(', ');
  return `INSERT INTO usage (${fields.join(', ')}) VALUES ${tuples.join(', ')} ON CONFLICT (id) DO UPDATE SET ${set}`;
}

function toRow(usage: Usage): Row {
  const { id, ownerDn, startedMs, measuredMs, endedMs = 0, total } = usage;
  const own = { id, ownerDn, startedMs, measuredMs, endedMs };
  return { ...own, ...total, document: JSON.stringify(usage) };
}
