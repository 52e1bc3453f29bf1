import { randomUUID } from 'node:crypto';
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { request } from 'undici';
import { imageFormats, type ImageRecord } from '#imagerepo/contract.js';
import { GridError } from '#kernel/errors.js';
import { anonymous, type Caller } from '#kernel/http/caller.js';
import { listen } from '#kernel/http/listen.js';
import { createRestApp, mount } from '#kernel/http/router.js';
import { silentLog as log } from '#kernel/log.js';
import { openDatabase } from '#kernel/persistence/database.js';
import { migrate } from '#kernel/persistence/migrate.js';
import { Scope } from '#kernel/scope.js';
import type { Audit } from '#kernel/security/audit.js';
import type { AuthenticatedCaller } from '#kernel/security/caller.js';
import { RegistryConfig } from '#targetsystem/config.js';
import { openRegistry } from '#targetsystem/registry/open-registry.js';
import { restOperations } from '#targetsystem/rest/operations.js';
import { XnjsConfig } from '#xnjs/config.js';
import { IdbConfig } from '#xnjs/idb/config.js';
import { IdbSource } from '#xnjs/idb/idb-source.js';
import { JobConfig } from '#xnjs/job/config.js';
import { JobEngine } from '#xnjs/job/engine.js';
import { JobSubmission } from '#xnjs/job/job-submission.js';
import { createNoticeSender } from '#xnjs/job/notice-sender.js';
import { jobMigrations } from '#xnjs/persistence/job-models.js';
import { createJobStore } from '#xnjs/persistence/job-store.js';
import {
  createReservationStore,
  reservationMigrations,
} from '#xnjs/persistence/sql-reservation-store.js';
import { createSettingsStore, settingsMigrations } from '#xnjs/persistence/settings-store.js';
import { createTargetStore, targetMigrations } from '#xnjs/persistence/sql-target-store.js';
import { createStartStore, startMigrations } from '#xnjs/persistence/sql-start-store.js';
import { createUsageStore, usageMigrations } from '#xnjs/persistence/sql-usage-store.js';
import { Reservations } from '#xnjs/reservation/reservations.js';
import type { EnrolmentConfig } from '#xnjs/vm/context/enrolments.js';
import { MachineAuthority } from '#xnjs/vm/context/machine-authority.js';
import { oneHost } from '#xnjs/vm/hosts/hosts.js';
import type { ImageSearch, ImageSource } from '#xnjs/vm/image-source.js';
import { JobMachines } from '#xnjs/vm/job-machines.js';
import { placementOf } from '#xnjs/vm/placement/config.js';
import { recordStarts } from '#xnjs/vm/placement/starts.js';
import { TargetSystems } from '#xnjs/vm/target-systems.js';
import { Workspace } from '#xnjs/vm/workspace.js';
import { anImageMetadata } from '../xnjs/vm/samples.js';
import type { RestDeps } from '#targetsystem/rest/deps.js';
import { restDeps } from './rest-deps.js';
import { ShiftedClock } from './shifted-clock.js';
import { ProcessHypervisor } from './process-hypervisor.js';
import { login } from './storages-rig.js';

/** A member of a virtual organisation; of several, he comes as one of that, and has a group. */
const inVo = (dn: string, vo: string, ...others: readonly string[]): AuthenticatedCaller => ({
  ...{ dn, role: 'user', login: 'carol', peer: '' },
  preferences: others.length > 0 ? { vo } : {},
  attributes: {
    ...{ roles: ['user'], logins: ['carol'], groups: [], supplementaryGroups: [] },
    vos: [...others, vo],
    ...(others.length > 0 && { group: 'physics' }),
  },
});

/** Who may come in, by the name that is sent as user. */
export const callers: Readonly<Record<string, Caller>> = {
  alice: { dn: 'CN=Alice,O=Grid', role: 'user', login: 'alice' },
  bob: { dn: 'CN=Bob,O=Grid', role: 'user', login: 'bob' },
  admin: { dn: 'CN=Admin,O=Grid', role: 'admin' },
  server: { dn: 'CN=Other Server,O=Grid', role: 'anonymous' },
  carol: inVo('CN=Carol,O=Grid', '/astro'),
  dave: inVo('CN=Dave,O=Grid', '/bio'),
  erin: inVo('CN=Erin,O=Grid', '/astro', '/bio'),
  stranger: { dn: 'CN=Stranger,O=Grid', role: 'anonymous' },
};

/** Whoever looks into it reads it by its schema (`targetsystem/rest/answers.ts`). */
export type Body = Readonly<Record<string, unknown>>;
export type Answer = { status: number; headers: Record<string, unknown>; body: Body };
export type Ask = (
  method: 'GET' | 'POST' | 'PUT' | 'DELETE',
  path: string,
  body?: object,
) => Promise<Answer>;

export type Compute = {
  readonly clock: ShiftedClock;
  readonly systems: TargetSystems;
  readonly jobs: JobEngine;
  readonly machines: JobMachines;
  readonly hypervisor: ProcessHypervisor;
  readonly images: FakeImages;
  /** Below `/rest/core` unless the path begins with `/rest`. */
  readonly as: (name: string) => Ask;
  /** Another server on the same state: what was there before lives on in its database. */
  readonly restart: () => Promise<Compute>;
};

export type ComputeOptions = {
  readonly limits?: object;
  /** Instead of them: limits, flavours, quota and prices as the configuration has them. */
  readonly targetSystems?: object;
  readonly jobs?: object;
  readonly registry?: object;
  /** Properties of the agents. */
  readonly agent?: readonly string[];
  /** Machines prove which one they are; told who was refused. */
  readonly enrolment?: { readonly audit?: Audit; readonly validDays?: number };
  /** How often agents are asked how their guests are. */
  readonly guestMs?: number;
  readonly connections?: () => Record<string, 'OK' | 'DOWN' | 'UNKNOWN'>;
};

/** A fake of the image repository: the real one is met in test/grid. */
export class FakeImages implements ImageSource, ImageSearch {
  readonly records: ImageRecord[] = [];
  readonly #part: string;
  readonly #directory: string;

  constructor(directory: string) {
    this.#directory = directory;
    this.#part = join(directory, 'part');
    writeFileSync(this.#part, '');
  }

  /** The newest comes first. */
  add(metadata: object, owner = 'CN=Creator,O=Grid'): ImageRecord {
    const tsi = { login, jobsDirectory: join(this.#directory, 'jobs') };
    const record: ImageRecord = {
      id: randomUUID(),
      owner,
      state: 'PUBLISHED',
      created: '',
      metadata: anImageMetadata({ tsi, ...metadata }),
      parts: {},
    };
    for (const name of imageFormats[record.metadata.format].parts)
      record.parts[name] = { sha256: 'a'.repeat(64), sizeBytes: 1 };
    this.records.unshift(record);
    return record;
  }

  find(reference: string): Promise<ImageRecord> {
    const found = this.records.find(({ id, metadata: { name, version } }) =>
      [id, name, `${name}:${version}`].includes(reference),
    );
    if (found) return Promise.resolve(found);
    const text = `image: there is no published image ${reference}`;
    return Promise.reject(new GridError('IMAGE_UNKNOWN', text));
  }

  isHere(): Promise<boolean> {
    return Promise.resolve(true);
  }

  search({ application, name, os }: { application?: string; name?: string; os?: string }) {
    const found = this.records.filter(
      ({ metadata }) =>
        (application === undefined ||
          metadata.applications.some(({ Name }) => Name === application)) &&
        [undefined, metadata.name].includes(name) &&
        [undefined, metadata.os.distribution].includes(os),
    );
    return Promise.resolve(found);
  }

  fetch = (): Promise<string> => Promise.resolve(this.#part);
}

/** The REST face of sites, jobs, registry and administration on real engines; machines are processes. */
export async function startCompute(scope: Scope, options: ComputeOptions = {}): Promise<Compute> {
  const directory = mkdtempSync(join(tmpdir(), 'vsite-co-'));
  scope.defer(() => rmSync(directory, { recursive: true, force: true, maxRetries: 5 }));
  chmodSync(directory, 0o711);
  mkdirSync(join(directory, 'jobs'));
  chmodSync(join(directory, 'jobs'), 0o1777);
  const hypervisor = new ProcessHypervisor(new Workspace(directory), options.agent);
  scope.defer(() => hypervisor.close());
  const images = new FakeImages(directory);
  images.add({ name: 'plain' });
  const clock = new ShiftedClock();
  return startService({ scope, directory, hypervisor, images, clock, options });
}

async function enrolmentIn(
  directory: string,
  { audit, validDays = 1 }: NonNullable<ComputeOptions['enrolment']>,
): Promise<EnrolmentConfig> {
  const authority = await MachineAuthority.open(join(directory, 'ca.pem'), 'grid', validDays);
  return { authority, tokenMs: 3_600_000, ...(audit && { audit }) };
}

type Parts = {
  readonly scope: Scope;
  readonly directory: string;
  readonly hypervisor: ProcessHypervisor;
  readonly images: FakeImages;
  readonly clock: ShiftedClock;
  readonly options: ComputeOptions;
};

async function startService(parts: Parts): Promise<Compute> {
  const { directory, hypervisor, images, clock, options } = parts;
  const own = new Scope();
  parts.scope.defer(() => own.close());
  const url = `sqlite:${join(directory, 'db.sqlite')}`;
  const database = own.use(await openDatabase({ url, log }));
  const migrations = [
    ...[...targetMigrations, ...jobMigrations, ...usageMigrations, ...startMigrations],
    ...[...settingsMigrations, ...reservationMigrations],
  ];
  await migrate(database, 'x', migrations, log);
  const common = { clock, log };
  const submission = await JobSubmission.open(createSettingsStore(database));
  const configured =
    options.targetSystems && XnjsConfig.shape.targetSystems.parse(options.targetSystems);
  const starts = createStartStore(database);
  const systems = own.use(
    new TargetSystems({
      store: createTargetStore(database),
      ...{ hosts: oneHost(hypervisor, log), images, ...common },
      workspace: new Workspace(directory),
      installationId: '5b3f0c1e-8d52-4a94-9a50-0f0e3a1f2b3c',
      bootTimeoutMs: 30_000,
      heartbeatMs: 500,
      limits: { cpus: 4, memoryMiB: 4096, perUser: 4, ...options.limits, ...configured?.limits },
      idle: {
        afterMs: 1_000 * 86_400_000,
        action: 'destroy',
        isBusy: () => Promise.resolve(false),
      },
      ...(options.guestMs !== undefined && { guestMs: options.guestMs }),
      ...(options.enrolment && { enrolment: await enrolmentIn(directory, options.enrolment) }),
      placement: { ...(configured && placementOf(configured)), starts },
      usage: { store: createUsageStore(database), intervalMs: 20, keepMs: 30 * 86_400_000 },
    }),
  );
  own.defer(recordStarts(systems, starts, log));
  const config = JobConfig.parse({ statusIntervalMs: 20, ...options.jobs });
  const jobs = own.use(
    new JobEngine({
      notices: createNoticeSender(config.notifications),
      store: createJobStore(database),
      staging: { stage: () => Promise.resolve({ log: [] }) }, // no job of these brings files along
      ...{ targets: systems, submission, config, ...common },
    }),
  );
  const idb = own.use(await IdbSource.open({ config: IdbConfig.parse({}), ...common }));
  await systems.start();
  await jobs.attach();
  const machines = own.use(
    new JobMachines({
      ...{ systems, jobs, submission, ...common },
    }),
  );
  await machines.start();
  const store = createReservationStore(database);
  const reservations = own.use(new Reservations({ store, targets: systems, ...common }));
  await reservations.start();
  const registry = await openRegistry(
    RegistryConfig.parse(options.registry ?? {}),
    database,
    own,
    log,
    clock,
  );
  const rest = restDeps({
    ...{ clock, systems, jobs, machines, submission, reservations, idb, registry },
    // nothing is published here
    savedImages: systems.savedImages({ images, publisher: undefined as never }),
    storages: { ofTarget: () => ({}) } as unknown as RestDeps['storages'], // another test's
    connections: options.connections ?? (() => ({})),
    issueToken: ({ subject }) => Promise.resolve(`token for ${subject}`),
    credential: { dn: 'CN=Server,O=Grid', issuer: 'CN=CA', expiresMs: 9e12, pem: 'PEM' },
  });
  const app = createRestApp({
    mounts: Object.entries(restOperations).map(([prefix, operations]) =>
      mount(prefix, operations, rest),
    ),
    authenticate: ({ headers }) => callers[String(headers['x-user'])] ?? anonymous,
    externalUrl: 'https://grid.example/TEST',
    log,
  });
  const { port } = await listen(app, { host: '127.0.0.1', port: 0 }, own);
  return {
    ...{ clock, systems, jobs, machines, hypervisor, images },
    as: (name) => (method, path, body) => ask(port ?? 0, name, method, path, body),
    restart: async () => {
      await own.close();
      return startService(parts);
    },
  };
}

const ask = async (
  port: number,
  user: string,
  ...[method, path, body]: Parameters<Ask>
): Promise<Answer> => {
  const below = path.startsWith('/rest') ? path : `/rest/core${path}`;
  const answer = await request(`http://127.0.0.1:${port}${below}`, {
    method,
    headers: { 'x-user': user, ...(body && { 'content-type': 'application/json' }) },
    ...(body && { body: JSON.stringify(body) }),
  });
  const text = await answer.body.text();
  const json = text === '' ? {} : (JSON.parse(text) as Body);
  return { status: answer.statusCode, headers: answer.headers, body: json };
};

/** The last part of the address that something was made at. */
export function idOf({ status, headers, body }: Answer): string {
  if (status !== 201) throw new Error(`${status}: ${JSON.stringify(body)}`);
  return String(headers['location']).split('/').at(-1) ?? '';
}
