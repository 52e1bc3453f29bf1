import type { QueryInterface, Transaction } from 'sequelize';
import type { Database } from './database.js';
import type { Sql, SqlValue, Statement } from './sql.js';

/** Something that happened, as it is told. */
export type NewChange = {
  /** Of what: `job`, `site`, … */
  readonly type: string;
  /** Its id. */
  readonly subject: string;
  readonly ownerDn: string;
  readonly body: object;
};
/** `seq` grows with each commit, also over a restart; `atMs` is the database's clock. */
export type Change = NewChange & { readonly seq: number; readonly atMs: number };

/** How much of it is kept. */
export type ChangeBounds = { readonly maxCount: number; readonly maxAgeMs: number };

type Row = {
  seq: number | string;
  type: string;
  subject: string;
  owner_dn: string;
  at_ms: number;
  body: string;
};

const columns = '(type, subject, owner_dn, body)';

/**
 * What has changed, in the order of the commits: written in the transaction of the change itself, so that
 * nothing is told that is not stored, and nothing stored that is not told.
 */
export class ChangeLog {
  readonly #database: Database;
  readonly #table: string;

  /** @param table made by {@link createChangeTable} */
  constructor(database: Database, table: string) {
    this.#database = database;
    this.#table = table;
  }

  /** For `Database.write`. */
  statements(changes: readonly NewChange[]): Statement[] {
    if (changes.length === 0) return [];
    const tuples = changes.map(
      (_, at) => `($${4 * at + 1}, $${4 * at + 2}, $${4 * at + 3}, $${4 * at + 4})`,
    );
    const values = changes.flatMap(({ type, subject, ownerDn, body }): SqlValue[] => [
      ...[type, subject, ownerDn, JSON.stringify(body)],
    ]);
    return [{ text: `INSERT INTO ${this.#table} ${columns} VALUES ${tuples.join(', ')}`, values }];
  }

  /** In a transaction of Sequelize's. */
  async append(change: NewChange, transaction: Transaction): Promise<void> {
    for (const { text, values } of this.statements([change]))
      await this.#database.sequelize.query(text, { bind: [...values], transaction });
  }

  /** What follows `seq`, the oldest first. */
  async read(seq: number, num: number): Promise<Change[]> {
    const text = `SELECT seq, type, subject, owner_dn, at_ms, body FROM ${this.#table} WHERE seq > $1 ORDER BY seq LIMIT $2`;
    const rows = await this.#sql<Row>(text, [seq, num]);
    return rows.map(({ seq: number, owner_dn: ownerDn, at_ms: atMs, body, type, subject }) => ({
      ...{ seq: Number(number), type, subject, ownerDn, atMs },
      body: JSON.parse(body) as object, // written above, and by triggers from the same
    }));
  }

  /** The first and the last that are there; there is always one. */
  async ends(): Promise<{ readonly oldest: number; readonly newest: number }> {
    const text = `SELECT (SELECT min(seq) FROM ${this.#table}) AS oldest, (SELECT max(seq) FROM ${this.#table}) AS newest`;
    const [row] = await this.#sql<{ oldest: number | string; newest: number | string }>(text, []);
    return { oldest: Number(row?.oldest ?? 0), newest: Number(row?.newest ?? 0) };
  }

  /** Forgets what is beyond the bounds. The newest stays, for numbers go on from it. */
  async prune({ maxCount, maxAgeMs }: ChangeBounds, nowMs: number): Promise<void> {
    const { newest } = await this.ends();
    const young = `SELECT seq FROM ${this.#table} WHERE at_ms >= $1 ORDER BY seq LIMIT 1`;
    const [first] = await this.#sql<Pick<Row, 'seq'>>(young, [nowMs - maxAgeMs]);
    const from = Math.max(newest - maxCount + 1, Number(first?.seq ?? newest));
    const text = `DELETE FROM ${this.#table} WHERE seq < $1`;
    await this.#database.write([{ text, values: [Math.min(from, newest)] }]);
  }

  get #sql(): Sql {
    return this.#database.sql;
  }
}

/** The step of a migration that makes the table of a {@link ChangeLog}. */
export async function createChangeTable(
  { sequelize }: QueryInterface,
  table: string,
  transaction: Transaction,
): Promise<void> {
  const run = (sql: string): Promise<unknown> => sequelize.query(sql, { transaction });
  const rest = (now: string): string =>
    `type TEXT NOT NULL, subject TEXT NOT NULL, owner_dn TEXT NOT NULL, at_ms DOUBLE PRECISION NOT NULL DEFAULT (${now}), body TEXT NOT NULL`;
  // a new database never repeats numbers of one that it stands in for: they begin with the time
  const first = Date.now();
  if (sequelize.getDialect() === 'sqlite') {
    const now = "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)";
    await run(`CREATE TABLE ${table} (seq INTEGER PRIMARY KEY, ${rest(now)})`);
    await run(
      `INSERT INTO ${table} (seq, type, subject, owner_dn, body) VALUES (${first}, 'log', '', '', '{}')`,
    );
    return;
  }
  // two transactions must not commit in another order than that of their numbers
  await run(
    `CREATE TABLE ${table} (seq BIGINT PRIMARY KEY, ${rest('extract(epoch from clock_timestamp()) * 1000')})`,
  );
  await run(`CREATE SEQUENCE ${table}_seq START ${first} OWNED BY ${table}.seq`);
  await run(
    `CREATE FUNCTION ${table}_next() RETURNS trigger LANGUAGE plpgsql AS ` +
      `'BEGIN PERFORM pg_advisory_xact_lock(TG_RELID::bigint); NEW.seq := nextval(''${table}_seq''); RETURN NEW; END'`,
  );
  await run(
    `CREATE TRIGGER ${table}_next BEFORE INSERT ON ${table} FOR EACH ROW EXECUTE FUNCTION ${table}_next()`,
  );
  await run(`INSERT INTO ${table} ${columns} VALUES ('log', '', '', '{}')`);
}

/**
 * Lets a column of another table write the log: what a statement puts there, if anything, is the body of a
 * change. One statement, and no transaction around two (ADR 026).
 */
export async function logFromColumn(
  { sequelize }: QueryInterface,
  { table, source, type }: { table: string; source: string; type: string },
  transaction: Transaction,
): Promise<void> {
  const run = (sql: string): Promise<unknown> => sequelize.query(sql, { transaction });
  const insert = `INSERT INTO ${table} ${columns} VALUES`;
  if (sequelize.getDialect() === 'sqlite') {
    for (const when of ['INSERT', 'UPDATE OF change'])
      await run(
        `CREATE TRIGGER ${source}_change_${when.slice(0, 6).toLowerCase()} AFTER ${when} ON ${source} WHEN new.change <> '' ` +
          `BEGIN ${insert} ('${type}', new.id, new.owner_dn, new.change); END`,
      );
    return;
  }
  await run(
    `CREATE FUNCTION ${source}_change() RETURNS trigger LANGUAGE plpgsql AS ` +
      `'BEGIN ${insert} (''${type}'', NEW.id, NEW.owner_dn, NEW.change); RETURN NULL; END'`,
  );
  await run(
    `CREATE TRIGGER ${source}_change AFTER INSERT OR UPDATE OF change ON ${source} ` +
      `FOR EACH ROW WHEN (NEW.change <> '') EXECUTE FUNCTION ${source}_change()`,
  );
}
