import { readFile } from 'node:fs/promises';
import { systemClock, type Clock } from '#kernel/clock.js';
import { anonymous, type Caller } from '#kernel/http/caller.js';
import type { Log } from '#kernel/log.js';
import type { Database } from '#kernel/persistence/database.js';
import { migrate } from '#kernel/persistence/migrate.js';
import type { Scope } from '#kernel/scope.js';
import { equalDns } from '#kernel/security/dn.js';
import type { RegistryConfig } from '../config.js';
import { RegistryEntries } from './entries.js';
import { createEntryStore, registryMigrations } from './entry-store.js';
import type { ExternalRegistry } from './publisher.js';

const reaperIntervalMs = 10_000;

export type Registry = {
  readonly entries: RegistryEntries;
  readonly mayAdd: (caller: Caller) => boolean;
};

/** The entries of others, in the service's database. */
export async function openRegistry(
  { trustedDns, lifetimeSeconds, maxEntries }: RegistryConfig,
  database: Database,
  scope: Scope,
  log: Log,
  clock: Clock = systemClock,
): Promise<Registry> {
  await migrate(database, 'targetsystem', registryMigrations, log);
  const entries = scope.use(
    await RegistryEntries.open({
      store: createEntryStore(database),
      clock,
      log: log.child({ part: 'targetsystem.registry' }),
      lifetimeMs: lifetimeSeconds * 1_000,
      maxEntries,
      reaperIntervalMs,
    }),
  );
  return { entries, mayAdd: (caller) => mayAdd(caller, trustedDns) };
}

/** Trusted servers need not be users here: that they have proved who they are is enough. */
export function mayAdd({ dn, role }: Caller, trustedDns: readonly string[]): boolean {
  if (role === 'admin' || role === 'server') return true;
  return dn !== anonymous.dn && trustedDns.some((trusted) => equalDns(trusted, dn));
}

export async function readExternal({ external }: RegistryConfig): Promise<ExternalRegistry[]> {
  return await Promise.all(
    external.map(async ({ url, caFile, trustKeys }) => ({
      ...{ url, trustKeys },
      ca: caFile === undefined ? undefined : await readFile(caFile, 'utf8'),
    })),
  );
}
