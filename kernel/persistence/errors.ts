import { BaseError, ConnectionError, DatabaseError } from 'sequelize';
import { errorText, GridError } from '#kernel/errors.js';

export class PersistenceError extends GridError<
  'DATABASE_UNAVAILABLE' | 'STORAGE_FULL' | 'CONFIG_INVALID'
> {}

/** SQLite's result codes, errno of Node and SQLSTATEs of PostgreSQL. */
const codes: Readonly<Record<string, 'DATABASE_UNAVAILABLE' | 'STORAGE_FULL'>> = {
  SQLITE_FULL: 'STORAGE_FULL',
  ENOSPC: 'STORAGE_FULL',
  '53100': 'STORAGE_FULL', // disk_full
  SQLITE_BUSY: 'DATABASE_UNAVAILABLE',
  SQLITE_CANTOPEN: 'DATABASE_UNAVAILABLE',
  SQLITE_CORRUPT: 'DATABASE_UNAVAILABLE',
  SQLITE_IOERR: 'DATABASE_UNAVAILABLE',
  SQLITE_NOTADB: 'DATABASE_UNAVAILABLE',
  SQLITE_READONLY: 'DATABASE_UNAVAILABLE',
  '53300': 'DATABASE_UNAVAILABLE', // too_many_connections
  '57P01': 'DATABASE_UNAVAILABLE', // admin_shutdown
  '57P02': 'DATABASE_UNAVAILABLE', // crash_shutdown
  '57P03': 'DATABASE_UNAVAILABLE', // cannot_connect_now
};

/** Trouble with the database itself becomes ours; all else, such as a violated constraint, stays. */
export function toPersistenceError(error: unknown): unknown {
  if (!(error instanceof BaseError)) return error;
  const cause =
    error instanceof DatabaseError || error instanceof ConnectionError ? error.parent : error;
  const known = codeOf(cause);
  if (known === undefined && !(error instanceof ConnectionError)) return error;
  return trouble(known ?? 'DATABASE_UNAVAILABLE', error, cause);
}

/** The same for an error that comes from the driver itself. */
export function fromDriver(error: Error): Error {
  const known = codeOf(error);
  return known === undefined ? error : trouble(known, error, error);
}

function codeOf(cause: Error): PersistenceError['code'] | undefined {
  return codes[(cause as { code?: string }).code ?? ''];
}

function trouble(code: PersistenceError['code'], error: Error, cause: Error): PersistenceError {
  const message =
    code === 'STORAGE_FULL' ? 'no space left for the database' : 'the database does not answer';
  const details = { reason: errorText(error), code: (cause as { code?: string }).code };
  return new PersistenceError(code, message, details, { cause: error });
}
