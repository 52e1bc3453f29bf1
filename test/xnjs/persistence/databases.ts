import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { silentLog } from '#kernel/log.js';
import { openDatabase, type Database } from '#kernel/persistence/database.js';
import { migrate } from '#kernel/persistence/migrate.js';
import type { Scope } from '#kernel/scope.js';
import { jobMigrations } from '#xnjs/persistence/job-models.js';
import { settingsMigrations } from '#xnjs/persistence/settings-store.js';
import { leaseMigrations } from '#xnjs/persistence/sql-lease.js';
import { recordMigrations } from '#xnjs/persistence/sql-record-store.js';
import { storageMigrations } from '#xnjs/persistence/sql-storage-store.js';
import { spareMigrations, targetMigrations } from '#xnjs/persistence/sql-target-store.js';
import { usageMigrations } from '#xnjs/persistence/sql-usage-store.js';
import { transferMigrations } from '#xnjs/persistence/transfer-store.js';
import { noPostgres, startPostgres } from '../../kernel/persistence/postgres.js';

async function sqliteUrl(scope: Scope): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'xnjs-'));
  scope.defer(() => rm(directory, { recursive: true, force: true }));
  return `sqlite:${join(directory, 'xnjs.sqlite')}`;
}

/** Name, the URL of a new and empty one, why there is none here. */
export const databases = [
  ['SQLite', sqliteUrl, false],
  ['PostgreSQL', startPostgres, noPostgres],
] as const;

/** With all tables of the execution engine, as `startXnjs` makes them. */
export async function openTables(scope: Scope, url: string): Promise<Database> {
  const database = scope.use(await openDatabase({ url, log: silentLog }));
  await migrate(
    database,
    'xnjs',
    [
      ...targetMigrations,
      ...spareMigrations,
      ...jobMigrations,
      ...transferMigrations,
      ...storageMigrations,
      ...recordMigrations,
      ...leaseMigrations,
      ...settingsMigrations,
      ...usageMigrations,
    ],
    silentLog,
  );
  return database;
}
