import { readFile } from 'node:fs/promises';
import type { Log } from '#kernel/log.js';
import type { Metrics } from '#kernel/metrics.js';
import { timeDatabase } from '#kernel/persistence/database-metrics.js';
import { openDatabase, type Database } from '#kernel/persistence/database.js';
import { migrate } from '#kernel/persistence/migrate.js';
import type { Scope } from '#kernel/scope.js';
import type { XnjsConfig } from './config.js';
import { jobMigrations } from './persistence/job-models.js';
import { reservationMigrations } from './persistence/sql-reservation-store.js';
import { settingsMigrations } from './persistence/settings-store.js';
import { leaseMigrations } from './persistence/sql-lease.js';
import { recordMigrations } from './persistence/sql-record-store.js';
import { storageMigrations } from './persistence/sql-storage-store.js';
import { spareMigrations, targetMigrations } from './persistence/sql-target-store.js';
import { startMigrations } from './persistence/sql-start-store.js';
import { usageMigrations } from './persistence/sql-usage-store.js';
import { transferMigrations } from './persistence/transfer-store.js';

/** The engine's database, with its tables as this version has them. */
export async function openTables(
  { database: { url, passwordFile } }: XnjsConfig,
  scope: Scope,
  { log, metrics }: { readonly log: Log; readonly metrics?: Metrics | undefined },
): Promise<Database> {
  const password =
    passwordFile === undefined ? undefined : (await readFile(passwordFile, 'utf8')).trim();
  const database = scope.use(
    await openDatabase({ url, password, log, onCall: metrics && timeDatabase(metrics) }),
  );
  await migrate(
    database,
    'xnjs',
    [
      ...targetMigrations,
      ...spareMigrations,
      ...usageMigrations,
      ...startMigrations,
      ...jobMigrations,
      ...transferMigrations,
      ...storageMigrations,
      ...settingsMigrations,
      ...reservationMigrations,
      ...recordMigrations,
      ...leaseMigrations,
    ],
    log,
  );
  return database;
}
