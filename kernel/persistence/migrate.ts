import {
  DataTypes,
  QueryTypes,
  type ModelAttributeColumnOptions,
  type QueryInterface,
  type Transaction,
} from 'sequelize';
import type { Log } from '#kernel/log.js';
import type { Database } from './database.js';

/** One step of a service's schema. Never changed after a release; the name sorts, `001-images`. */
export type Migration = {
  readonly name: string;
  readonly up: (schema: QueryInterface, transaction: Transaction) => Promise<unknown>;
};

/**
 * Brings a service's tables up to date. A step and the note that it was done land in one transaction,
 * so that a crash leaves neither half.
 * @param service prefix of the table that notes them
 */
export async function migrate(
  database: Database,
  service: string,
  migrations: readonly Migration[],
  log: Log,
): Promise<void> {
  const { sequelize } = database;
  const schema = sequelize.getQueryInterface();
  const table = `${service}_migrations`;
  const quoted = schema.quoteIdentifier(table);
  await sequelize.query(`CREATE TABLE IF NOT EXISTS ${quoted} (name VARCHAR(255) PRIMARY KEY)`);
  const findDone = async (): Promise<string[]> => {
    const select = `SELECT name FROM ${quoted} ORDER BY name`;
    const rows = await sequelize.query<{ name: string }>(select, { type: QueryTypes.SELECT });
    return rows.map(({ name }) => name);
  };
  const done = new Set(await findDone());
  if (migrations.every(({ name }) => done.has(name))) return;
  // with a command line of its own it takes 20 MB and 150 ms: servers that start again do without
  const { Umzug } = await import('umzug');
  const umzug = new Umzug({
    logger: undefined,
    migrations: migrations.map(({ name, up }) => ({
      name,
      up: () =>
        database.transaction(async (transaction) => {
          await up(schema, transaction);
          await schema.bulkInsert(table, [{ name }], { transaction });
        }),
    })),
    storage: {
      executed: findDone,
      logMigration: () => Promise.resolve(), // `up` did
      unlogMigration: () => Promise.reject(new TypeError('migrations only go forward')),
    },
  });
  for (const { name } of await umzug.up()) log.info({ service, name }, 'migration done');
}

type Column = ModelAttributeColumnOptions;

/** A new object each time: Sequelize writes into those it is given. */
const columnOf =
  (type: Column['type']) =>
  (options: Partial<Column> = {}): Column => ({ type, allowNull: false, ...options });

/** Columns that mean the same in every database we run on. */
export const column = {
  /** A UUID as text: PostgreSQL's own type refuses every other text, even as a search value. */
  id: columnOf(DataTypes.STRING(36)),
  word: columnOf(DataTypes.STRING(255)),
  text: columnOf(DataTypes.TEXT),
  flag: columnOf(DataTypes.BOOLEAN),
  /** ms since the epoch, bytes: exact up to 2^53. BIGINT would come back from PostgreSQL as text. */
  number: columnOf(DataTypes.DOUBLE),
} as const;
