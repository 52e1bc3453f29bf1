import { randomUUID } from 'node:crypto';
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { systemClock } from '#kernel/clock.js';
import { file } from '#kernel/config.js';
import { createHttpClient } from '#kernel/http/client.js';
import { LibvirtClient } from '#kernel/libvirt/client.js';
import type { Log } from '#kernel/log.js';
import { openDatabase, type Database } from '#kernel/persistence/database.js';
import { migrate } from '#kernel/persistence/migrate.js';
import { Scope } from '#kernel/scope.js';
import { IdbConfig } from './idb/config.js';
import { IdbSource } from './idb/idb-source.js';
import { JobConfig } from './job/config.js';
import { JobEngine } from './job/engine.js';
import { createNoticeSender } from './job/notice-sender.js';
import { jobMigrations } from './persistence/job-models.js';
import { createJobStore } from './persistence/job-store.js';
import { createStorageStore, storageMigrations } from './persistence/sql-storage-store.js';
import { createTargetStore, targetMigrations } from './persistence/sql-target-store.js';
import { StoragesConfig } from './storage/config.js';
import { Storages } from './storage/storages.js';
import { NetworkConfig, openNetwork, TsiConfig } from './vm/network-config.js';
import { HttpImageSource } from './vm/http-image-source.js';
import { createTransferStore, transferMigrations } from './persistence/transfer-store.js';
import { StagingConfig } from './staging/config.js';
import { createStaging } from './staging/create-staging.js';
import { Outside } from './staging/outside.js';
import { createSiteStorages } from './staging/site-storages.js';
import type { Staging } from './staging/staging.js';
import { LibvirtHypervisor } from './vm/libvirt-hypervisor.js';
import { TargetSystems } from './vm/target-systems.js';
import { Workspace } from './vm/workspace.js';

export const XnjsConfig = z.strictObject({
  /** Absolute. Files of target systems; containers need it reachable (permission x) for all users. */
  stateDirectory: z.string().startsWith('/', 'must be an absolute path'),
  database: z.strictObject({
    /** `sqlite:/absolute/path` or `postgres://user@host/name` */
    url: z.string(),
    passwordFile: file.optional(),
  }),
  hypervisor: z.strictObject({
    /** libvirt URI for virtual machines, `qemu:///system` */
    machines: z.string().optional(),
    /** `kvm` only where a guest really booted with it; else software emulation */
    acceleration: z.enum(['kvm', 'qemu']).default('qemu'),
    /** libvirt URI for containers, `lxc:///system` */
    containers: z.string().optional(),
    /** For machines whose TSI is reached over a network (ADR 016). */
    network: NetworkConfig.optional(),
  }),
  tsi: TsiConfig.prefault({}),
  images: z.strictObject({
    url: z.url(),
    /** Unix socket of the repository where it has one. */
    socket: z.string().optional(),
    /** Its store directory where it is on this host. */
    storeDirectory: z.string().optional(),
  }),
  targetSystems: z
    .strictObject({
      bootTimeoutSeconds: z.number().positive().default(120),
      heartbeatSeconds: z.number().positive().default(1),
      limits: z
        .strictObject({
          cpus: z.int().positive().default(8),
          memoryMiB: z.int().positive().default(16_384),
          perUser: z.int().positive().default(16),
        })
        .prefault({}),
    })
    .prefault({}),
  jobs: JobConfig.prefault({}),
  staging: StagingConfig.prefault({}),
  storages: StoragesConfig.prefault({}),
  idb: IdbConfig.prefault({}),
});
export type XnjsConfig = z.output<typeof XnjsConfig>;

export type XnjsDeps = {
  readonly log: Log;
  /** Headers that prove to the image repository for whom we ask. */
  readonly onBehalfOf: (dn: string) => Record<string, string>;
  /** `https://host:port/VSITE`, as users know this site. */
  readonly siteUrl: string;
};

export type Xnjs = {
  readonly systems: TargetSystems;
  readonly jobs: JobEngine;
  readonly storages: Storages;
  readonly idb: IdbSource;
  /** What the engine depends on, and whether it answers. */
  readonly connections: () => Record<string, 'OK' | 'DOWN'>;
  /** Machines and jobs run on. Closing twice is fine. */
  close(): Promise<void>;
};

/** Starts the engine: re-attaches to what ran before, then takes new work. */
export async function startXnjs(
  config: XnjsConfig,
  { log, onBehalfOf, siteUrl }: XnjsDeps,
): Promise<Xnjs> {
  const scope = new Scope();
  try {
    const { stateDirectory, hypervisor: addresses } = config;
    await mkdir(stateDirectory, { recursive: true, mode: 0o711 });
    const installationId = await readInstallationId(stateDirectory);
    const { url, passwordFile } = config.database;
    const password =
      passwordFile === undefined ? undefined : (await readFile(passwordFile, 'utf8')).trim();
    const database = scope.use(await openDatabase({ url, password, log }));
    await migrate(
      database,
      'xnjs',
      [...targetMigrations, ...jobMigrations, ...transferMigrations, ...storageMigrations],
      log,
    );

    const idb = scope.use(await IdbSource.open({ config: config.idb, clock: systemClock, log }));

    const [machines, containers] = await Promise.all([
      connect(addresses.machines, log, scope),
      connect(addresses.containers, log, scope),
    ]);
    const clients = {
      ...(machines && { [addresses.acceleration]: machines }),
      ...(containers && { lxc: containers }),
    };
    const hypervisor = new LibvirtHypervisor({ clients, installationId, clock: systemClock, log });
    const network = await openNetwork(config, scope, log);
    const systems = scope.use(
      new TargetSystems({
        ...systemsOptions(config, installationId),
        ...(network && { network }),
        store: createTargetStore(database),
        hypervisor,
        images: imageSource(config, onBehalfOf, scope),
        clock: systemClock,
        log,
        idb,
      }),
    );
    const store = createJobStore(database);
    const jobs: JobEngine = scope.use(
      new JobEngine({
        store,
        targets: systems,
        staging: await openStaging(config, {
          database,
          systems,
          log,
          scope,
          siteUrl,
          storages: () => storages,
        }),
        notices: createNoticeSender(config.jobs.notifications),
        clock: systemClock,
        log,
        config: config.jobs,
      }),
    );
    const storages: Storages = scope.use(
      new Storages({
        config: config.storages,
        store: createStorageStore(database),
        targets: systems,
        jobs,
        clock: systemClock,
        log,
      }),
    );
    await systems.start();
    await jobs.attach();
    await storages.start();
    const connections = (): Record<string, 'OK' | 'DOWN'> =>
      Object.fromEntries(
        Object.entries(clients).map(([driver, { connected }]) => [
          `libvirt ${driver}`,
          connected ? 'OK' : 'DOWN',
        ]),
      );
    return { systems, jobs, storages, idb, connections, close: () => scope.close() };
  } catch (error) {
    await scope.close();
    throw error;
  }
}

function systemsOptions({ stateDirectory, targetSystems }: XnjsConfig, installationId: string) {
  return {
    workspace: new Workspace(stateDirectory),
    installationId,
    bootTimeoutMs: targetSystems.bootTimeoutSeconds * 1_000,
    heartbeatMs: targetSystems.heartbeatSeconds * 1_000,
    limits: targetSystems.limits,
  };
}

function imageSource(
  { images, stateDirectory }: XnjsConfig,
  onBehalfOf: XnjsDeps['onBehalfOf'],
  scope: Scope,
): HttpImageSource {
  const socket = images.socket !== undefined && { socketPath: images.socket };
  const client = scope.use(createHttpClient({ baseUrl: images.url, ...socket }));
  return new HttpImageSource({
    client,
    onBehalfOf,
    storeDirectory: images.storeDirectory,
    cacheDirectory: join(stateDirectory, 'image-cache'),
  });
}

/** A hypervisor that does not answer now may do so later: the server starts all the same. */
async function connect(
  uri: string | undefined,
  log: Log,
  scope: Scope,
): Promise<LibvirtClient | undefined> {
  if (uri === undefined) return undefined;
  const client = scope.use(new LibvirtClient({ uri, log }));
  client.start();
  await client.ready(AbortSignal.timeout(5_000)).catch(() => undefined);
  return client;
}

async function openStaging(
  { staging: config, stateDirectory }: XnjsConfig,
  deps: {
    readonly database: Database;
    readonly systems: TargetSystems;
    /** Made after this. */
    readonly storages: () => Storages;
    readonly log: Log;
    readonly scope: Scope;
    readonly siteUrl: string;
  },
): Promise<Staging> {
  const { database, systems, storages, log, scope, siteUrl } = deps;
  return createStaging({
    store: createTransferStore(database),
    outside: scope.use(await Outside.open(config)),
    config,
    scratchDirectory: await emptyDirectory(join(stateDirectory, 'staging')),
    storages: createSiteStorages({
      siteUrls: [siteUrl, ...config.siteUrls],
      targets: systems,
      storages,
    }),
    onBehalfOf: () => ({}), // no proof that other sites would take
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

/** Random, made at the first start; marks our domains on a host that others use too. */
async function readInstallationId(directory: string): Promise<string> {
  const path = join(directory, 'installation-id');
  try {
    return z.uuid().parse((await readFile(path, 'utf8')).trim());
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    const id = randomUUID();
    await writeFile(path, `${id}\n`, { flag: 'wx', flush: true });
    return id;
  }
}
