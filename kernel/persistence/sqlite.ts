import sqlite3 from 'sqlite3';
import { Transaction, type Options } from 'sequelize';
import { fromDriver } from './errors.js';
import type { Sql, SqlValue, Statement } from './sql.js';

const busyTimeoutMs = 5_000;

/**
 * A connection that loses nothing it has confirmed, even when the power fails. Sequelize opens one for
 * all reads and one for each transaction, and has no hook to prepare them.
 */
class DurableConnection extends sqlite3.Database {
  constructor(...parameters: ConstructorParameters<typeof sqlite3.Database>) {
    super(...parameters);
    this.configure('busyTimeout', busyTimeoutMs);
    this.serialize();
    this.run('PRAGMA journal_mode = WAL', ignore);
    this.run('PRAGMA synchronous = FULL', ignore);
    this.run('PRAGMA foreign_keys = ON', ignore);
  }
}

/** A connection that could not be opened says so in its constructor's call-back already. */
const ignore = (): void => undefined;

export function durableSqlite(path: string): Options {
  return {
    dialect: 'sqlite',
    storage: path,
    dialectModule: { ...sqlite3, Database: DurableConnection },
    // takes the write lock at once: a reader that turns writer half way can only fail
    transactionType: Transaction.TYPES.IMMEDIATE,
  };
}

const mostPrepared = 64;

/**
 * One connection that stays open, for statements by hand: what Sequelize does for each (a connection of
 * its own for a transaction, a stack trace for a query) costs more than the statements.
 */
export class SqliteConnection {
  readonly #path: string;
  #opened: Promise<sqlite3.Database> | undefined;
  readonly #prepared = new Map<string, sqlite3.Statement>();

  constructor(path: string) {
    this.#path = path;
  }

  readonly sql: Sql = async <Row extends object>(text: string, values: readonly SqlValue[]) => {
    const connection = await (this.#opened ??= this.#open());
    return await new Promise<Row[]>((resolve, reject) => {
      this.#statement(connection, text).all<Row>(values, (error, rows) => {
        if (error) {
          this.#forget(text);
          reject(fromDriver(error));
        } else resolve(rows);
      });
    });
  };

  /** All of them or none, durably. One caller at a time. */
  async write(statements: readonly Statement[]): Promise<void> {
    const [first] = statements;
    if (!first) return;
    if (statements.length === 1) {
      await this.sql(first.text, first.values);
      return;
    }
    await this.sql('BEGIN IMMEDIATE', []);
    try {
      for (const { text, values } of statements) await this.sql(text, values);
      await this.sql('COMMIT', []);
    } catch (error) {
      await this.sql('ROLLBACK', []).catch(ignore); // a full disk has done it already
      throw error;
    }
  }

  async close(): Promise<void> {
    const connection = await this.#opened?.catch(ignore);
    if (!connection) return;
    for (const text of [...this.#prepared.keys()]) this.#forget(text);
    await new Promise((resolve) => connection.close(resolve));
  }

  /** Those that were used last are kept prepared. */
  #statement(connection: sqlite3.Database, text: string): sqlite3.Statement {
    const known = this.#prepared.get(text);
    // `$1` is a name to SQLite, looked for among all others; `?1` is a place
    const statement = known ?? connection.prepare(text.replaceAll('$', '?'), ignore);
    this.#prepared.delete(text);
    this.#prepared.set(text, statement);
    const [oldest] = this.#prepared.keys();
    if (this.#prepared.size > mostPrepared && oldest !== undefined) this.#forget(oldest);
    return statement;
  }

  #forget(text: string): void {
    this.#prepared.get(text)?.finalize();
    this.#prepared.delete(text);
  }

  #open(): Promise<sqlite3.Database> {
    return new Promise((resolve, reject) => {
      const mode = sqlite3.OPEN_READWRITE | sqlite3.OPEN_CREATE;
      const connection = new DurableConnection(this.#path, mode, (error) => {
        if (error) {
          this.#opened = undefined;
          reject(fromDriver(error));
        } else resolve(connection);
      });
    });
  }
}
