import { strict as assert } from 'node:assert';
import { AsyncLocalStorage } from 'node:async_hooks';
import type { Transaction } from 'sequelize';
import { Sequelize, type Options } from 'sequelize';
import type { Log } from '#kernel/log.js';
import { GridError } from '#kernel/errors.js';
import { PersistenceError, toPersistenceError } from './errors.js';
import { createSerial } from './serial.js';
import { sequelizeSql, type Sql, type Statement } from './sql.js';
import { durableSqlite, SqliteConnection } from './sqlite.js';

export type DatabaseOptions = {
  /** `sqlite:/absolute/path` or `postgres://user@host/name` (`?host=/dir` for a unix socket) */
  readonly url: string;
  /** PostgreSQL's, kept out of the URL so that it does not end up in logs. */
  readonly password?: string | undefined;
  readonly log: Log;
  /** Told of each call. */
  readonly onCall?: ((call: DatabaseCall) => void) | undefined;
};

/** `read`, `write`: statements by hand; `query`: one of a model's; `transaction`: with all that is in it. */
export type DatabaseCall = {
  readonly kind: 'read' | 'write' | 'query' | 'transaction';
  readonly ms: number;
  readonly isOk: boolean;
};

const connections = 10;
const connectTimeoutMs = 10_000;

/** SQLite's connections for statements by hand: a reader must not see what the writer has not committed. */
type ByHand = { readonly reader: SqliteConnection; readonly writer: SqliteConnection };

/** One database. Each service has its own models and migrations in it. */
export class Database implements AsyncDisposable {
  readonly sequelize: Sequelize;
  /** Outside of any transaction. */
  readonly sql: Sql;
  readonly #byHand: ByHand | undefined;
  readonly #serial = createSerial();
  readonly #inside = new AsyncLocalStorage<true>();
  readonly #onCall: DatabaseOptions['onCall'];
  #guarded = 0;
  #closing: Promise<void> | undefined;

  /** @param sqlitePath absent: it is PostgreSQL */
  constructor(sequelize: Sequelize, sqlitePath?: string, onCall?: DatabaseOptions['onCall']) {
    this.sequelize = sequelize;
    this.#onCall = onCall;
    this.#byHand =
      sqlitePath === undefined
        ? undefined
        : { reader: new SqliteConnection(sqlitePath), writer: new SqliteConnection(sqlitePath) };
    const sql = this.#byHand?.reader.sql ?? sequelizeSql(sequelize);
    this.sql = (text, values) => this.#timed('read', () => sql(text, values));
  }

  /**
   * Runs `work` in a transaction: all of it lands, durably, or nothing. SQLite has one writer, so there
   * transactions wait for each other here instead of failing. Every query in `work` must be given the
   * transaction; one transaction in another is a mistake and refused.
   * @throws {@link PersistenceError} `DATABASE_UNAVAILABLE`, `STORAGE_FULL`
   */
  async transaction<T>(work: (transaction: Transaction) => Promise<T>): Promise<T> {
    assert(!this.#inside.getStore(), 'a transaction within a transaction');
    const run = () => this.#guard(() => this.sequelize.transaction(work));
    try {
      return await this.#timed('transaction', () =>
        this.#byHand ? this.#serial('writer', run) : run(),
      );
    } catch (error) {
      throw toPersistenceError(error);
    }
  }

  /** The same for statements by hand, and many times faster. */
  async write(statements: readonly Statement[]): Promise<void> {
    await this.#timed('write', () => this.#write(statements));
  }

  async #write(statements: readonly Statement[]): Promise<void> {
    const { writer } = this.#byHand ?? {};
    if (writer) {
      await this.#serial('writer', () => writer.write(statements));
      return;
    }
    try {
      await this.sequelize.transaction(async (transaction) => {
        const sql = sequelizeSql(this.sequelize, transaction);
        for (const { text, values } of statements) await sql(text, values);
      });
    } catch (error) {
      throw toPersistenceError(error);
    }
  }

  async #timed<T>(kind: DatabaseCall['kind'], work: () => Promise<T>): Promise<T> {
    return await timed(kind, this.#onCall, work);
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** A storage that is in use makes every promise of the process dearer: it is turned off in between. */
  async #guard<T>(work: () => Promise<T>): Promise<T> {
    this.#guarded++;
    try {
      return await this.#inside.run(true, work);
    } finally {
      this.#guarded--;
      if (this.#guarded === 0) this.#inside.disable();
    }
  }

  async #close(): Promise<void> {
    const close = async (): Promise<void> => {
      await this.#byHand?.writer.close();
      await this.#byHand?.reader.close();
      await this.sequelize.close();
    };
    // what is under way comes first: SQLite tells nobody but the process of a connection closed beneath it
    await (this.#byHand ? this.#serial('writer', close) : close());
  }
}

async function timed<T>(
  kind: DatabaseCall['kind'],
  onCall: DatabaseOptions['onCall'],
  work: () => Promise<T>,
): Promise<T> {
  if (!onCall) return await work();
  const beganMs = performance.now();
  let isOk = true;
  try {
    return await work();
  } catch (error) {
    // a refusal within a transaction is not the database's
    isOk = error instanceof GridError && !(error instanceof PersistenceError);
    throw error;
  } finally {
    onCall({ kind, ms: performance.now() - beganMs, isOk });
  }
}

/** @throws {@link PersistenceError} `CONFIG_INVALID`, `DATABASE_UNAVAILABLE` */
export async function openDatabase({
  url,
  password,
  log,
  onCall,
}: DatabaseOptions): Promise<Database> {
  const sequelize = createSequelize(url, password);
  throwOurErrors(sequelize, onCall);
  try {
    await sequelize.authenticate();
    log.info({ dialect: sequelize.getDialect() }, 'database opened');
    return new Database(sequelize, sqlitePath(url), onCall);
  } catch (error) {
    await sequelize.close().catch(() => undefined);
    throw error;
  }
}

function sqlitePath(url: string): string | undefined {
  return url.startsWith('sqlite:/') ? url.slice('sqlite:'.length) : undefined;
}

function createSequelize(url: string, password?: string): Sequelize {
  const common: Options = { logging: false, define: { timestamps: false, underscored: true } };
  const path = sqlitePath(url);
  if (path !== undefined) return new Sequelize({ ...common, ...durableSqlite(path) });
  if (/^postgres(?:ql)?:\/\//.test(url))
    return new Sequelize(url, {
      ...common,
      ...(password !== undefined && { password }),
      dialect: 'postgres',
      dialectOptions: { connectionTimeoutMillis: connectTimeoutMs },
      pool: { max: connections, acquire: connectTimeoutMs },
    });
  throw new PersistenceError(
    'CONFIG_INVALID',
    'the database URL must begin with sqlite:/ or postgres://',
  );
}

/** All models go through `query`, so this one place translates for all of them. */
function throwOurErrors(sequelize: Sequelize, onCall: DatabaseOptions['onCall']): void {
  const query = sequelize.query.bind(sequelize) as (...parameters: unknown[]) => Promise<unknown>;
  const translated = async (...parameters: unknown[]): Promise<unknown> => {
    try {
      return await timed('query', onCall, () => query(...parameters));
    } catch (error) {
      throw toPersistenceError(error);
    }
  };
  // its ten overloads all end in the same implementation
  sequelize.query = translated as typeof sequelize.query;
}
