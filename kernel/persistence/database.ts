import { strict as assert } from 'node:assert';
import { AsyncLocalStorage } from 'node:async_hooks';
import type { Transaction } from 'sequelize';
import { Sequelize, type Options } from 'sequelize';
import type { Log } from '#kernel/log.js';
import { PersistenceError, toPersistenceError } from './errors.js';
import { createSerial } from './serial.js';
import { durableSqlite } from './sqlite.js';

export type DatabaseOptions = {
  /** `sqlite:/absolute/path` or `postgres://user@host/name` (`?host=/dir` for a unix socket) */
  readonly url: string;
  /** PostgreSQL's, kept out of the URL so that it does not end up in logs. */
  readonly password?: string | undefined;
  readonly log: Log;
};

const connections = 10;
const connectTimeoutMs = 10_000;

/** One database. Each service has its own models and migrations in it. */
export class Database implements AsyncDisposable {
  readonly sequelize: Sequelize;
  readonly #oneWriter: boolean;
  readonly #serial = createSerial();
  readonly #inside = new AsyncLocalStorage<true>();
  #closing: Promise<void> | undefined;

  constructor(sequelize: Sequelize) {
    this.sequelize = sequelize;
    this.#oneWriter = sequelize.getDialect() === 'sqlite';
  }

  /**
   * Runs `work` in a transaction: all of it lands, durably, or nothing. SQLite has one writer, so there
   * transactions wait for each other here instead of failing. Every query in `work` must be given the
   * transaction; one transaction in another is a mistake and refused.
   * @throws {@link PersistenceError} `DATABASE_UNAVAILABLE`, `STORAGE_FULL`
   */
  async transaction<T>(work: (transaction: Transaction) => Promise<T>): Promise<T> {
    assert(!this.#inside.getStore(), 'a transaction within a transaction');
    const run = () => this.#inside.run(true, () => this.sequelize.transaction(work));
    try {
      return await (this.#oneWriter ? this.#serial('writer', run) : run());
    } catch (error) {
      throw toPersistenceError(error);
    }
  }

  close(): Promise<void> {
    this.#closing ??= this.sequelize.close();
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

/** @throws {@link PersistenceError} `CONFIG_INVALID`, `DATABASE_UNAVAILABLE` */
export async function openDatabase({ url, password, log }: DatabaseOptions): Promise<Database> {
  const sequelize = createSequelize(url, password);
  throwOurErrors(sequelize);
  try {
    await sequelize.authenticate();
    log.info({ dialect: sequelize.getDialect() }, 'database opened');
    return new Database(sequelize);
  } catch (error) {
    await sequelize.close().catch(() => undefined);
    throw error;
  }
}

function createSequelize(url: string, password?: string): Sequelize {
  const common: Options = { logging: false, define: { timestamps: false, underscored: true } };
  if (url.startsWith('sqlite:/'))
    return new Sequelize({ ...common, ...durableSqlite(url.slice('sqlite:'.length)) });
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
function throwOurErrors(sequelize: Sequelize): void {
  const query = sequelize.query.bind(sequelize) as (...parameters: unknown[]) => Promise<unknown>;
  const translated = async (...parameters: unknown[]): Promise<unknown> => {
    try {
      return await query(...parameters);
    } catch (error) {
      throw toPersistenceError(error);
    }
  };
  // its ten overloads all end in the same implementation
  sequelize.query = translated as typeof sequelize.query;
}
