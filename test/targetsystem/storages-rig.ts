import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { request as httpRequest, type IncomingMessage } from 'node:http';
import { tmpdir, userInfo } from 'node:os';
import { join } from 'node:path';
import { buffer } from 'node:stream/consumers';
import { systemClock, type Clock } from '#kernel/clock.js';
import { anonymous, type Caller } from '#kernel/http/caller.js';
import { listen } from '#kernel/http/listen.js';
import { createRestApp, mount } from '#kernel/http/router.js';
import { GridError } from '#kernel/errors.js';
import { silentLog } from '#kernel/log.js';
import { ChangeFeed } from '#kernel/persistence/change-feed.js';
import { ChangeLog } from '#kernel/persistence/change-log.js';
import { openDatabase } from '#kernel/persistence/database.js';
import { migrate } from '#kernel/persistence/migrate.js';
import type { Scope } from '#kernel/scope.js';
import { ProcessHypervisor } from './process-hypervisor.js';
import { restDeps } from './rest-deps.js';
import type { SecurityDecision } from '#kernel/security/audit.js';
import type { Attributes } from '#kernel/security/caller.js';
import { RegistryConfig } from '#targetsystem/config.js';
import { openRegistry } from '#targetsystem/registry/open-registry.js';
import { EventsConfig, EventStreams } from '#targetsystem/rest/event-streams.js';
import { restOperations } from '#targetsystem/rest/operations.js';
import { DataConfig } from '#xnjs/data/config.js';
import { DataServices } from '#xnjs/data/data-services.js';
import { IdbConfig } from '#xnjs/idb/config.js';
import { IdbSource } from '#xnjs/idb/idb-source.js';
import { JobConfig } from '#xnjs/job/config.js';
import { createNoticeSender } from '#xnjs/job/notice-sender.js';
import { JobEngine } from '#xnjs/job/engine.js';
import { JobSubmission } from '#xnjs/job/job-submission.js';
import { changesTable, jobMigrations } from '#xnjs/persistence/job-models.js';
import { createJobStore } from '#xnjs/persistence/job-store.js';
import { createSettingsStore, settingsMigrations } from '#xnjs/persistence/settings-store.js';
import { recordMigrations } from '#xnjs/persistence/sql-record-store.js';
import {
  createReservationStore,
  reservationMigrations,
} from '#xnjs/persistence/sql-reservation-store.js';
import { createStorageStore, storageMigrations } from '#xnjs/persistence/sql-storage-store.js';
import { createVolumeStore } from '#xnjs/persistence/sql-volume-store.js';
import { createTargetStore, targetMigrations } from '#xnjs/persistence/sql-target-store.js';
import { createTransferStore, transferMigrations } from '#xnjs/persistence/transfer-store.js';
import type { Reservation } from '#xnjs/reservation/reservation.js';
import { Reservations } from '#xnjs/reservation/reservations.js';
import { StagingConfig } from '#xnjs/staging/config.js';
import { createStaging } from '#xnjs/staging/create-staging.js';
import { Outside } from '#xnjs/staging/outside.js';
import { createSiteStorages } from '#xnjs/staging/site-storages.js';
import { StoragesConfig } from '#xnjs/storage/config.js';
import { Storages } from '#xnjs/storage/storages.js';
import { oneHost } from '#xnjs/vm/hosts/hosts.js';
import { TargetSystems } from '#xnjs/vm/target-systems.js';
import { Workspace } from '#xnjs/vm/workspace.js';
import { until } from '../xnjs/job/rig.js';
import { anImageMetadata } from '../xnjs/vm/samples.js';

export const login = process.geteuid?.() === 0 ? 'nobody' : userInfo().username;

const noDisk = (): Promise<never> =>
  Promise.reject(new GridError('CONFLICT', 'processes have no disk'));

export type Answer = {
  readonly status: number;
  readonly headers: Record<string, unknown>;
  readonly text: string;
  /** Of a JSON body. */
  readonly body: Readonly<Record<string, unknown>>;
};
export type Ask = (
  method: string,
  path: string,
  how?: { body?: object | string; headers?: Record<string, string> },
) => Promise<Answer>;

/** Who may come in, by the name that is sent as user. */
export const callers = {
  alice: { dn: 'CN=Alice,O=Grid', role: 'user', login: 'alice' },
  bob: { dn: 'CN=Bob,O=Grid', role: 'user', login: 'bob' },
  admin: { dn: 'CN=Admin,O=Grid', role: 'admin' },
  /** For ACLs to name. */
  reader: { dn: 'CN=Reader,O=Grid', role: 'user' },
  writer: { dn: 'CN=Writer,O=Grid', role: 'user' },
  modifier: { dn: 'CN=Modifier,O=Grid', role: 'user' },
  /** Known, and nothing more. */
  guest: {
    dn: 'CN=Guest,O=Grid',
    role: 'guest',
    attributes: {
      ...{ roles: ['guest'], logins: [], groups: [], supplementaryGroups: [], vos: [] },
      ...{ queues: ['night'], queue: 'night' },
    },
  },
  /** Of another site. */
  server: { dn: 'CN=Other Server,O=Grid', role: 'server' },
  banned: { dn: 'CN=Alice,O=Grid', role: 'banned' },
  nobody: anonymous,
} as const satisfies Record<string, Caller & { attributes?: Attributes }>;
export type CallerName = keyof typeof callers;

export type Rig = {
  readonly directory: string;
  readonly storages: Storages;
  readonly jobs: JobEngine;
  readonly systems: TargetSystems;
  /** A target system of a user's, ready. @returns its id */
  readonly makeSite: (ownerDn: string) => Promise<string>;
  readonly data: DataServices;
  /** Where the service listens. */
  readonly port: number;
  /** `nobody`: without credentials. */
  readonly as: (name: CallerName) => Ask;
  /** The decision about the last request. */
  readonly lastDecision: () => SecurityDecision | undefined;
};

export type RigOptions = {
  /** Of the storages. */
  readonly config?: (directory: string) => object;
  /** Lines of the agents' tsi.properties. */
  readonly agent?: readonly string[];
  /** How often batch systems are asked for their queues. */
  readonly queuesIntervalMs?: number;
  readonly data?: object;
  /** That were made before the service started. */
  readonly reservations?: readonly Reservation[];
  /** What time it is for transfers, tasks and shares. */
  readonly clock?: Clock;
};

/** The REST face and the engine below it, on machines that are processes. */
export async function startRig(scope: Scope, options: RigOptions = {}): Promise<Rig> {
  const directory = mkdtempSync(join(tmpdir(), 'vsite-st-'));
  scope.defer(() => rmSync(directory, { recursive: true, force: true, maxRetries: 5 }));
  chmodSync(directory, 0o711);
  for (const name of ['jobs', 'scratch']) {
    mkdirSync(join(directory, name));
    chmodSync(join(directory, name), 0o1777);
  }
  return { directory, ...(await startService(scope, directory, options)) };
}

async function startService(
  scope: Scope,
  directory: string,
  {
    config,
    data: dataConfig = {},
    clock = systemClock,
    agent = [],
    queuesIntervalMs = 300_000,
    reservations: reserved = [],
  }: RigOptions,
): Promise<Omit<Rig, 'directory'>> {
  const log = silentLog;
  const url = `sqlite:${join(directory, 'db.sqlite')}`;
  const database = scope.use(await openDatabase({ url, log }));
  await migrate(
    database,
    'x',
    [
      ...targetMigrations,
      ...jobMigrations,
      ...transferMigrations,
      ...storageMigrations,
      ...recordMigrations,
      ...settingsMigrations,
      ...reservationMigrations,
    ],
    log,
  );
  const workspace = new Workspace(directory);
  const hypervisor = new ProcessHypervisor(workspace, agent);
  scope.defer(() => hypervisor.close());
  const part = join(directory, 'part');
  writeFileSync(part, '');
  const metadata = anImageMetadata({ tsi: { login, jobsDirectory: join(directory, 'jobs') } });
  const image = {
    id: randomUUID(),
    metadata,
    parts: {},
    owner: '',
    state: 'PUBLISHED',
    created: '',
  };
  const systems = scope.use(
    new TargetSystems({
      store: createTargetStore(database),
      hosts: oneHost(hypervisor, log),
      images: {
        find: () => Promise.resolve({ ...image, state: 'PUBLISHED' as const }),
        isHere: () => Promise.resolve(true),
        fetch: () => Promise.resolve(part),
        search: () => Promise.resolve([]),
      },
      workspace,
      clock: systemClock,
      log,
      installationId: randomUUID(),
      bootTimeoutMs: 30_000,
      heartbeatMs: 500,
      queuesIntervalMs,
      limits: { cpus: 4, memoryMiB: 4096, perUser: 4 },
      volumes: {
        store: createVolumeStore(database),
        limits: { volumes: 1, volumeMiB: 16, perUser: 2 },
      },
    }),
  );
  const submission = await JobSubmission.open(createSettingsStore(database));
  const jobs = scope.use(
    new JobEngine({
      submission,
      notices: createNoticeSender(JobConfig.parse({}).notifications),
      store: createJobStore(database),
      staging: { stage: () => Promise.resolve({ log: [] }) }, // no job of these brings files along
      targets: systems,
      clock: systemClock,
      log,
      config: JobConfig.parse({}),
    }),
  );
  const idb = scope.use(
    await IdbSource.open({ config: IdbConfig.parse({}), clock: systemClock, log }),
  );
  const storages = scope.use(
    new Storages({
      config: StoragesConfig.parse(config?.(directory) ?? {}),
      store: createStorageStore(database),
      targets: systems,
      jobs,
      clock: systemClock,
      log,
    }),
  );
  const stagingConfig = StagingConfig.parse({ allowAddresses: ['127.0.0.0/8'], retryFirstMs: 10 });
  const staging = createStaging({
    store: createTransferStore(database),
    outside: scope.use(new Outside(stagingConfig)),
    config: stagingConfig,
    scratchDirectory: directory,
    storages: createSiteStorages({
      siteUrls: ['https://grid.example/TEST'],
      targets: systems,
      storages: () => storages,
    }),
    onBehalfOf: () => Promise.resolve(undefined),
    clock: systemClock,
    log,
  });
  // machines that are processes have no disk
  const savedImages = { check: noDisk, save: noDisk };
  const parts = { database, storages, targets: systems, staging, savedImages, clock, log };
  const data = scope.use(new DataServices({ config: DataConfig.parse(dataConfig), ...parts }));
  const reservationStore = createReservationStore(database);
  for (const each of reserved) await reservationStore.save(each);
  const reservations = scope.use(
    new Reservations({ store: reservationStore, targets: systems, clock, log }),
  );
  const registry = await openRegistry(RegistryConfig.parse({}), database, scope, log, clock);
  const changes = new ChangeLog(database, changesTable);
  const bounds = { maxCount: 1_000, maxAgeMs: 3_600_000 };
  const feed = scope.use(new ChangeFeed({ changes, bounds, clock, log }));
  const events = scope.use(new EventStreams(feed, EventsConfig.parse({})));
  await systems.start();
  await jobs.attach();
  await storages.start();
  await data.start();
  await reservations.start();
  const rest = restDeps({
    ...{ clock, systems, jobs, storages, data, idb },
    ...{ submission, reservations, registry, events, savedImages },
    issueToken: ({ subject }) => Promise.resolve(`for ${subject}`),
    credential: { dn: 'CN=Server,O=Grid', issuer: 'CN=CA', expiresMs: Date.UTC(2100, 0), pem: '' },
  });
  let last: SecurityDecision | undefined;
  const app = createRestApp({
    mounts: Object.entries(restOperations).map(([prefix, each]) => mount(prefix, each, rest)),
    authenticate: ({ headers }) => callers[headers['x-user'] as CallerName],
    audit: (decision) => (last = decision),
    externalUrl: 'https://grid.example/TEST',
    log,
  });
  const { port } = await listen(app, { host: '127.0.0.1', port: 0 }, scope);
  return {
    storages,
    data,
    port: port ?? 0,
    jobs,
    systems,
    makeSite: async (ownerDn) => {
      const { id } = await systems.create({ ownerDn, image: 'i', parameters: {}, tags: [] });
      await until('target system is ready', () => systems.get(id).state === 'READY');
      return id;
    },
    lastDecision: () => last,
    as: (name) => (method, path, how) => ask(port ?? 0, name, method, path, how),
  };
}

/** The path as it is, without a client that tidies it up. */
async function ask(
  port: number,
  user: string,
  method: string,
  path: string,
  { body, headers = {} }: { body?: object | string; headers?: Record<string, string> } = {},
): Promise<Answer> {
  const isText = typeof body === 'string';
  const type = body === undefined || isText ? {} : { 'content-type': 'application/json' };
  const request = httpRequest({
    ...{ host: '127.0.0.1', port, method, agent: false },
    path: path.startsWith('/rest/') ? path : `/rest/core${path}`,
    headers: { accept: 'application/json', 'x-user': user, ...type, ...headers },
  });
  request.end(isText ? body : body && JSON.stringify(body));
  const [response] = (await once(request, 'response')) as [IncomingMessage];
  const text = (await buffer(response)).toString();
  const isJson = /^application\/json(?:;|$)/.test(response.headers['content-type'] ?? '');
  return {
    status: response.statusCode ?? 0,
    headers: response.headers,
    text,
    body: (isJson && text !== '' ? JSON.parse(text) : {}) as Answer['body'],
  };
}

/** Path below `/rest/core` of a link or `Location`; of other services the whole path. */
export function pathOf(url: unknown): string {
  return String(url).replace(/^https:\/\/grid\.example\/TEST(?:\/rest\/core)?/, '');
}
