import { join } from 'node:path';
import { systemClock } from '#kernel/clock.js';
import { silentLog } from '#kernel/log.js';
import type { Database } from '#kernel/persistence/database.js';
import type { Scope } from '#kernel/scope.js';
import type { FileSpace } from '#xnjs/files/file-space.js';
import { TsiFileSpace } from '#xnjs/files/tsi-file-space.js';
import { createJobStore } from '#xnjs/persistence/job-store.js';
import { createTransferStore } from '#xnjs/persistence/transfer-store.js';
import { StagingConfig } from '#xnjs/staging/config.js';
import { createStaging } from '#xnjs/staging/create-staging.js';
import { Outside } from '#xnjs/staging/outside.js';
import { createSiteStorages } from '#xnjs/staging/site-storages.js';
import type { Staging } from '#xnjs/staging/staging.js';
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
  readonly onBehalfOf?: (dn: string) => Record<string, string>;
};

/** The staging of a server, on its database. */
export function stagingOf(scope: Scope, directory: string, wiring: Wiring): Staging {
  const { targets, database, trust, onBehalfOf = () => ({}) } = wiring;
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
      findJob: (id) => jobs.find(id),
      jobFiles: (job, target) => spaceOf(target, job.id),
    }),
    onBehalfOf,
    clock: systemClock,
    log: silentLog,
  });
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
