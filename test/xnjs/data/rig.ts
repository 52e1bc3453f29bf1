import { join } from 'node:path';
import { systemClock, type Clock } from '#kernel/clock.js';
import { GridError } from '#kernel/errors.js';
import { silentLog } from '#kernel/log.js';
import type { Database } from '#kernel/persistence/database.js';
import type { Scope } from '#kernel/scope.js';
import { DataConfig } from '#xnjs/data/config.js';
import { DataServices } from '#xnjs/data/data-services.js';
import { principalOf, type Principal } from '#xnjs/data/principal.js';
import type { FileSpace } from '#xnjs/files/file-space.js';
import { createTransferStore } from '#xnjs/persistence/transfer-store.js';
import { StagingConfig } from '#xnjs/staging/config.js';
import { createStaging } from '#xnjs/staging/create-staging.js';
import { Outside } from '#xnjs/staging/outside.js';
import { createSiteStorages } from '#xnjs/staging/site-storages.js';
import { HostStorages } from '#xnjs/storage/host-storages.js';
import type { Storage } from '#xnjs/storage/storage.js';
import type { Storages } from '#xnjs/storage/storages.js';
import { scratch } from '../job/rig.js';
import { openTables } from '../persistence/databases.js';

export const alice: Principal = principalOf({ dn: 'CN=Alice,O=Grid', role: 'user' });

export type DataRig = {
  readonly base: string;
  readonly database: Database;
  readonly files: FileSpace;
  /** As the server does at its start; the one before is let go of. */
  readonly start: () => Promise<DataServices>;
};

/** What is stored, and the storage DATA on this server; no target systems. */
export async function dataRig(
  scope: Scope,
  { clock = systemClock, config = {} }: { clock?: Clock; config?: object } = {},
): Promise<DataRig> {
  const base = join(scratch(scope), 'data');
  const database = await openTables(scope, `sqlite:${base}.sqlite`);
  const host = new HostStorages(systemClock);
  await host.prepare([base]);
  const files = (dn: string): FileSpace => host.ofUser(base, dn, '077');
  const storages = {
    get: (id: string) =>
      id === 'DATA'
        ? Promise.resolve({
            ...{ id, kind: 'SHARED', acl: ['write:ROLE:user'], status: 'READY', metadata: true },
            files,
          } as unknown as Storage) // what is asked of it here
        : Promise.reject(new GridError('NOT_FOUND', `there is no storage ${id}`)),
  } as unknown as Storages;
  const targets = { find: () => undefined, subscribe: () => () => undefined };
  const stagingConfig = StagingConfig.parse({ allowAddresses: ['127.0.0.0/8'], retryFirstMs: 10 });
  const staging = createStaging({
    store: createTransferStore(database),
    outside: scope.use(new Outside(stagingConfig)),
    config: stagingConfig,
    scratchDirectory: base,
    storages: createSiteStorages({ siteUrls: [], targets, storages: () => storages }),
    onBehalfOf: () => Promise.resolve(undefined),
    clock: systemClock,
    log: silentLog,
  });
  let last: DataServices | undefined;
  scope.defer(() => last?.[Symbol.asyncDispose]());
  return {
    ...{ base, database, files: files(alice.dn) },
    async start() {
      await last?.[Symbol.asyncDispose]();
      last = new DataServices({
        ...{ config: DataConfig.parse({ reaperIntervalMs: 20, ...config }), database, storages },
        ...{ targets, staging, clock, log: silentLog },
        savedImages: { save: () => Promise.reject(new TypeError('there are no machines here')) },
      });
      await last.start();
      return last;
    },
  };
}
