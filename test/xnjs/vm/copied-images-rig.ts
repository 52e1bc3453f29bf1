import { join } from 'node:path';
import { systemClock as clock } from '#kernel/clock.js';
import type { PoolVolumes } from '#kernel/libvirt/pool-volumes.js';
import { silentLog as log } from '#kernel/log.js';
import { openDatabase, type Database } from '#kernel/persistence/database.js';
import { migrate } from '#kernel/persistence/migrate.js';
import type { Scope } from '#kernel/scope.js';
import { createSettingsStore, settingsMigrations } from '#xnjs/persistence/settings-store.js';
import { copiesIn } from '#xnjs/vm/hosts/open-hosts.js';
import { CopiedImages, type CopiedImagesOptions } from '#xnjs/vm/hosts/storage/copied-images.js';

export const installationId = '11111111-2222-4333-8444-555555555555';
export const prefix = `vsite-${installationId}`;
const mib = 1024 ** 2;

export async function openSettings(scope: Scope, directory: string): Promise<Database> {
  const url = `sqlite:${join(directory, 'db.sqlite')}`;
  const database = scope.use(await openDatabase({ url, log }));
  await migrate(database, 'xnjs', settingsMigrations, log);
  return database;
}

/** As a server has them that was started on this database. */
export async function copiedImages(
  database: Database,
  volumes: PoolVolumes,
  options: Partial<CopiedImagesOptions> = {},
): Promise<CopiedImages> {
  const images = new CopiedImages({
    ...{ host: 'north', volumes, prefix, maxBytes: 1_024 * mib, clock, log },
    store: copiesIn(createSettingsStore(database), 'north'),
    inUse: () => new Set(),
    require: () => Promise.resolve(),
    stopping: new AbortController().signal,
    ...options,
  });
  await images.load();
  return images;
}
