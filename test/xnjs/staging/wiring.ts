import { join } from 'node:path';
import { systemClock } from '#kernel/clock.js';
import { GridError } from '#kernel/errors.js';
import { silentLog } from '#kernel/log.js';
import type { Database } from '#kernel/persistence/database.js';
import type { Scope } from '#kernel/scope.js';
import type { FileSpace } from '#xnjs/files/file-space.js';
import { TsiFileSpace } from '#xnjs/files/tsi-file-space.js';
import type { Job } from '#xnjs/job/job.js';
import { createJobStore } from '#xnjs/persistence/job-store.js';
import { createTransferStore } from '#xnjs/persistence/transfer-store.js';
import { StagingConfig } from '#xnjs/staging/config.js';
import { createStaging } from '#xnjs/staging/create-staging.js';
import { Outside } from '#xnjs/staging/outside.js';
import { createSiteStorages } from '#xnjs/staging/site-storages.js';
import type { Staging } from '#xnjs/staging/staging.js';
import type { OnBehalfOf } from '#xnjs/staging/transfer.js';
import { HostStorages } from '#xnjs/storage/host-storages.js';
import type { Storage } from '#xnjs/storage/storage.js';
import type { Storages } from '#xnjs/storage/storages.js';
import type { Target, Targets } from '#xnjs/target.js';

/** As users write the address of the site that the rig is. */
export const siteUrl = 'https://grid.example.org:8443/VSITE';
export const loopback = ['127.0.0.0/8', '::1'];

export type Wiring = {
  readonly targets: Targets;
  readonly database: Database;
  readonly config?: Partial<StagingConfig> | undefined;
  /** PEM of authorities besides the well-known ones. */
  readonly trust?: readonly string[] | undefined;
  readonly onBehalfOf?: OnBehalfOf;
};

/** The staging of a server, on its database. */
export function stagingOf(scope: Scope, directory: string, wiring: Wiring): Staging {
  const { targets, database, trust, onBehalfOf = () => Promise.resolve(undefined) } = wiring;
  const jobs = createJobStore(database);
  const config = StagingConfig.parse({
    allowAddresses: loopback,
    siteUrls: [siteUrl],
    retryFirstMs: 10,
    silenceMs: 5_000,
    ...wiring.config,
  });
  return createStaging({
    store: createTransferStore(database),
    outside: scope.use(new Outside(config, trust)),
    config,
    scratchDirectory: join(directory, 'staging'),
    storages: createSiteStorages({
      siteUrls: config.siteUrls,
      targets,
      storages: () => storagesOf(join(directory, 'data'), targets, (id) => jobs.find(id)),
    }),
    onBehalfOf,
    clock: systemClock,
    log: silentLog,
  });
}

/**
 * As the site's service finds them: homes, job directories and, as `DATA`, a directory of the server for
 * all users.
 */
function storagesOf(
  base: string,
  targets: Targets,
  findJob: (id: string) => Promise<Job | undefined>,
): Pick<Storages, 'get'> {
  const host = new HostStorages(systemClock);
  const onTarget = (ownerDn: string, target: Target, files: FileSpace) =>
    ({ ownerDn, acl: [], targetId: target.id, files: () => files }) as unknown as Storage;
  return {
    async get(id) {
      const [, owner = '', kind] = /^(.+)-(HOME|uspace)$/.exec(id) ?? [];
      const job = kind === 'uspace' ? await findJob(owner) : undefined;
      const target = targets.find(job?.targetId ?? owner);
      if (id === 'DATA') {
        await host.prepare([base]);
        const files = (userDn: string): FileSpace => host.ofUser(base, userDn, '077');
        return { acl: ['write:ROLE:user'], files } as unknown as Storage; // what staging asks of it
      }
      if (!target) throw new GridError('NOT_FOUND', `no storage ${id}`);
      if (job) return onTarget(job.ownerDn, target, spaceOf(target, job.id));
      const tsi = () => target.tsi();
      const home = new TsiFileSpace({ root: '$HOME', identity: target.identity, tsi });
      return onTarget(target.ownerDn, target, home);
    },
  };
}

/** The directory of a job. */
export function spaceOf(target: Target, jobId: string): FileSpace {
  const { identity: who, jobsDirectory } = target;
  return new TsiFileSpace({
    root: `${jobsDirectory}/${jobId}`,
    identity: who,
    tsi: () => target.tsi(),
    umask: '077',
  });
}
