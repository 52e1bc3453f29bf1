import sqlite3 from 'sqlite3';
import { Transaction, type Options } from 'sequelize';

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
  }
}

/** A connection that could not be opened says so in its constructor's call-back already. */
const ignore = (): void => undefined;

/** `foreign_keys` is Sequelize's own default. */
export function durableSqlite(path: string): Options {
  return {
    dialect: 'sqlite',
    storage: path,
    dialectModule: { ...sqlite3, Database: DurableConnection },
    // takes the write lock at once: a reader that turns writer half way can only fail
    transactionType: Transaction.TYPES.IMMEDIATE,
  };
}
