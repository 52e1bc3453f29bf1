import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { systemClock, type Clock } from '#kernel/clock.js';
import { createHttpClient } from '#kernel/http/client.js';
import type { Log } from '#kernel/log.js';
import type { Metrics } from '#kernel/metrics.js';
import { ChangeFeed } from '#kernel/persistence/change-feed.js';
import { ChangeLog } from '#kernel/persistence/change-log.js';
import type { Database } from '#kernel/persistence/database.js';
import { Scope } from '#kernel/scope.js';
import type { Audit } from '#kernel/security/audit.js';
import { ImageFollower } from './changes/image-follower.js';
import type { XnjsConfig } from './config.js';
import { DataServices } from './data/data-services.js';
import { IdbSource } from './idb/idb-source.js';
import { JobEngine } from './job/engine.js';
import type { JobEngineOptions } from './job/engine-options.js';
import { JobSubmission } from './job/job-submission.js';
import { openNoticeSender } from './job/notice-sender.js';
import { changesTable } from './persistence/job-models.js';
import { countJobs, countStaging, countSubmissions } from './metrics.js';
import { openSystems, readInstallationId } from './open-systems.js';
import { openTables } from './open-tables.js';
import { createJobStore } from './persistence/job-store.js';
import { createReservationStore } from './persistence/sql-reservation-store.js';
import { createSettingsStore } from './persistence/settings-store.js';
import { engineLease, Lease } from './persistence/sql-lease.js';
import { createStorageStore } from './persistence/sql-storage-store.js';
import { createTransferStore } from './persistence/transfer-store.js';
import { Reservations } from './reservation/reservations.js';
import { createStaging } from './staging/create-staging.js';
import { Outside } from './staging/outside.js';
import { createSiteStorages } from './staging/site-storages.js';
import { createSiteTokens, type IssueToken } from './staging/site-tokens.js';
import type { SingleTransfers, Staging } from './staging/staging.js';
import { Storages } from './storage/storages.js';
import { HttpImageSource } from './vm/http-image-source.js';
import { ImagePublisher } from './vm/image-publisher.js';
import { JobMachines } from './vm/job-machines.js';
import { JobSettlements } from './vm/job-settlements.js';
import { openHosts } from './vm/hosts/open-hosts.js';
import { openNetworks } from './vm/open-networks.js';
import type { SavedImages } from './vm/snapshots/saved-images.js';
import type { TargetSystems } from './vm/target-systems.js';

export type XnjsDeps = {
  readonly log: Log;
  /** Headers that prove to the image repository for whom we ask. */
  readonly onBehalfOf: (dn: string) => Record<string, string>;
  /** Signs our word for a user, for a site that gets it. */
  readonly issueToken: IssueToken;
  /** `https://host:port/VSITE`, as users know this site. */
  readonly siteUrl: string;
  /** Told which machines were refused; absent: nobody. */
  readonly audit?: Audit;
  /** Who we are to the image repository, when we ask for ourselves. */
  readonly serverDn: string;
  /** Where it counts what it does; absent: nowhere. */
  readonly metrics?: Metrics | undefined;
};

export type Xnjs = {
  /** For what else this service keeps; closed with the engine. */
  readonly database: Database;
  readonly systems: TargetSystems;
  readonly jobs: JobEngine;
  /** For jobs that name an image. */
  readonly machines: JobMachines;
  readonly submission: JobSubmission;
  readonly reservations: Reservations;
  readonly storages: Storages;
  readonly data: DataServices;
  /** Machines as images. */
  readonly savedImages: SavedImages;
  readonly idb: IdbSource;
  /** What becomes of jobs, target systems and images. */
  readonly feed: ChangeFeed;
  /** Resolves when another server on the same database has taken over: this one must not act any more. */
  readonly lost: Promise<void>;
  /** What the engine depends on, and whether it answers. */
  readonly connections: () => Record<string, 'OK' | 'DOWN'>;
  /** Machines and jobs run on. Closing twice is fine. */
  close(): Promise<void>;
};

/** What the parts of the engine share. */
type Common = { readonly clock: Clock; readonly log: Log };

/** Starts the engine: re-attaches to what ran before, then takes new work. */
export async function startXnjs(config: XnjsConfig, deps: XnjsDeps): Promise<Xnjs> {
  const scope = new Scope();
  try {
    await mkdir(config.stateDirectory, { recursive: true, mode: 0o711 });
    const common = { clock: systemClock, log: deps.log };
    const database = await openTables(config, scope, deps);
    const lease = scope.use(await Lease.take({ database, name: engineLease, ...common }));
    const jobStore = createJobStore(database, lease);
    const settings = createSettingsStore(database);
    const submission = await JobSubmission.open(settings);
    const idb = scope.use(await IdbSource.open({ config: config.idb, ...common }));
    const installationId = await readInstallationId(config.stateDirectory);
    const { hosts, clients, connections } = await openHosts(config.hypervisor, {
      ...{ installationId, scope, settings, ...common, metrics: deps.metrics },
    });
    const { feed, changes } = openFeed(config, database, scope, common);
    const { images, publisher } = openImages(config, deps.onBehalfOf, scope);
    const networks = openNetworks(config, { clients, installationId, ...common });
    const systems = await openSystems(config, deps, {
      ...{ scope, database, idb, hosts, networks, installationId, images, feed, lease, jobStore },
    });
    const staging = await openStaging(config, deps, {
      ...{ scope, database, systems },
      storages: () => storages,
    });
    const engine = { store: jobStore, targets: systems, submission, staging };
    const jobs: JobEngine = scope.use(await openJobs(config, deps, engine));
    const storages: Storages = scope.use(openStorages(config, database, systems, jobs, common));
    scope.defer(jobs.onChange(() => feed.wake()));
    if (deps.metrics) scope.defer(countJobs(deps.metrics, jobs));
    const savedImages = systems.savedImages({ images, publisher });
    const parts = { database, storages, targets: systems, staging, savedImages, ...common };
    const data = scope.use(new DataServices({ config: config.data, ...parts }));
    await systems.start();
    await jobs.attach();
    const settlements = scope.use(new JobSettlements({ systems, jobs, ...common }));
    settlements.start();
    const machines = scope.use(new JobMachines({ systems, jobs, submission, ...common }));
    await machines.start();
    await storages.start();
    await data.start();
    followImages(config, deps, { scope, database, changes, feed });
    const reservations = await startReservations(database, systems, scope, common);
    return {
      ...{ database, systems, jobs, machines, submission, reservations, storages, data, idb, feed },
      savedImages,
      connections,
      lost: lease.lost,
      close: () => scope.close(),
    };
  } catch (error) {
    await scope.close();
    throw error;
  }
}

async function openJobs(
  { jobs: config }: XnjsConfig,
  { log, metrics, issueToken }: XnjsDeps,
  parts: Pick<JobEngineOptions, 'store' | 'targets' | 'submission' | 'staging'>,
): Promise<JobEngine> {
  return new JobEngine({
    ...parts,
    config,
    notices: await openNoticeSender(config.notifications, issueToken),
    onSubmitted: metrics && countSubmissions(metrics),
    ...{ clock: systemClock, log },
  });
}

async function startReservations(
  database: Database,
  targets: TargetSystems,
  scope: Scope,
  common: Common,
): Promise<Reservations> {
  const store = createReservationStore(database);
  const reservations = scope.use(new Reservations({ store, targets, ...common }));
  await reservations.start();
  return reservations;
}

function openFeed(
  { changes: { maxCount, maxAgeSeconds } }: XnjsConfig,
  database: Database,
  scope: Scope,
  { clock, log }: Common,
): { feed: ChangeFeed; changes: ChangeLog } {
  const changes = new ChangeLog(database, changesTable);
  const bounds = { maxCount, maxAgeMs: maxAgeSeconds * 1_000 };
  return { changes, feed: scope.use(new ChangeFeed({ changes, bounds, clock, log })) };
}

function followImages(
  { images }: XnjsConfig,
  { log, onBehalfOf, serverDn }: XnjsDeps,
  parts: { scope: Scope; database: Database; changes: ChangeLog; feed: ChangeFeed },
): void {
  const { scope, database, changes, feed } = parts;
  const socket = images.socket !== undefined && { socketPath: images.socket };
  const client = scope.use(createHttpClient({ baseUrl: images.url, connections: 1, ...socket }));
  const headers = (): Record<string, string> => onBehalfOf(serverDn);
  const onLogged = (): void => feed.wake();
  const common = { clock: systemClock, log: log.child({ part: 'xnjs.changes' }) };
  scope.use(new ImageFollower({ client, headers, database, changes, onLogged, ...common }));
}

function openStorages(
  { storages: config }: XnjsConfig,
  database: Database,
  targets: TargetSystems,
  jobs: JobEngine,
  common: Common,
): Storages {
  return new Storages({ config, store: createStorageStore(database), targets, jobs, ...common });
}

function openImages(
  { images, stateDirectory }: XnjsConfig,
  onBehalfOf: XnjsDeps['onBehalfOf'],
  scope: Scope,
): { images: HttpImageSource; publisher: ImagePublisher } {
  const socket = images.socket !== undefined && { socketPath: images.socket };
  const client = scope.use(createHttpClient({ baseUrl: images.url, ...socket }));
  const source = new HttpImageSource({
    client,
    onBehalfOf,
    storeDirectory: images.storeDirectory,
    cacheDirectory: join(stateDirectory, 'image-cache'),
  });
  return { images: source, publisher: new ImagePublisher({ client, onBehalfOf }) };
}

async function openStaging(
  { staging: config, stateDirectory }: XnjsConfig,
  { log, siteUrl, issueToken, metrics }: XnjsDeps,
  parts: {
    readonly scope: Scope;
    readonly database: Database;
    readonly systems: TargetSystems;
    /** Made after this. */
    readonly storages: () => Storages;
  },
): Promise<Staging & SingleTransfers> {
  const { scope, database, systems, storages } = parts;
  return createStaging({
    store: createTransferStore(database),
    onMoved: metrics && countStaging(metrics),
    outside: scope.use(await Outside.open(config)),
    config,
    scratchDirectory: await emptyDirectory(join(stateDirectory, 'staging')),
    storages: createSiteStorages({
      siteUrls: [siteUrl, ...config.siteUrls],
      targets: systems,
      storages,
    }),
    onBehalfOf: createSiteTokens(config, issueToken),
    clock: systemClock,
    log: log.child({ part: 'xnjs.staging' }),
  });
}

/** What a former server has left there is of no use. */
async function emptyDirectory(path: string): Promise<string> {
  await rm(path, { recursive: true, force: true });
  await mkdir(path, { recursive: true, mode: 0o700 });
  return path;
}
