import { randomUUID } from 'node:crypto';
import type { Clock } from '#kernel/clock.js';
import { asGridError, GridError } from '#kernel/errors.js';
import type { Caller } from '#kernel/http/caller.js';
import type { Log } from '#kernel/log.js';
import { createSerial } from '#kernel/persistence/serial.js';
import { aclSubjectsOf, isAllowed, parseAcl } from '#kernel/security/acl.js';
import { TsiFileSpace } from '../files/tsi-file-space.js';
import type { FileSpace } from '../files/file-space.js';
import type { JobEngine } from '../job/engine.js';
import type { Job } from '../job/job.js';
import type { Target, Targets } from '../target.js';
import type { TargetSystem } from '../vm/target-system.js';
import type { SharedStorage, StoragesConfig, StorageType } from './config.js';
import { CreatedStorages } from './created-storages.js';
import { HostStorages } from './host-storages.js';
import { planStorage, type NewStorage } from './new-storage.js';
import type { CreatedStorage, Storage, StorageSettings, StorageStore } from './storage.js';

/** The target systems as storages see them. */
export type StorageTargets = Targets & {
  /** @throws `NOT_FOUND` */
  get(id: string): TargetSystem;
  /** The newest first. */
  list(filter: { ownerDn?: string }): readonly TargetSystem[];
};

export type StoragesOptions = {
  readonly config: StoragesConfig;
  readonly store: StorageStore;
  readonly targets: StorageTargets;
  readonly jobs: Pick<JobEngine, 'get' | 'list' | 'files' | 'update'>;
  readonly clock: Clock;
  readonly log: Log;
};

export type StorageChange = StorageSettings & { readonly terminationMs?: number };
export type StoragePage = {
  readonly offset: number;
  readonly num: number;
  readonly tags?: readonly string[];
  /** Directories of jobs too. */
  readonly workspaces?: boolean;
};

const ofTarget = /^([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})-(\w{1,40})$/;
const workspace = 'uspace';
const pruneMs = 60 * 60_000;

const states = {
  INITIALIZING: 'INITIALIZING',
  READY: 'READY',
  UNREACHABLE: 'ERROR',
  FAILED: 'ERROR',
  DESTROYING: 'SHUTTING_DOWN',
  DESTROYED: 'SHUTTING_DOWN',
} as const;

/**
 * All storages of this server: HOME, WORK and what the operator shares in each target system, job
 * directories, directories of the host, and what users have made by a storage factory.
 */
export class Storages implements AsyncDisposable {
  readonly #options: StoragesOptions;
  readonly #host: HostStorages;
  readonly #created: CreatedStorages;
  readonly #settings = new Map<string, StorageSettings>();
  readonly #queue = createSerial();
  #pruning: NodeJS.Timeout | undefined;

  constructor(options: StoragesOptions) {
    const { config, clock } = options;
    this.#options = options;
    this.#host = new HostStorages(clock);
    this.#created = new CreatedStorages({
      ...options,
      perUser: config.perUser,
      reaperIntervalMs: config.reaperIntervalMs,
      filesOf: (record) => this.#filesOfCreated(record),
    });
  }

  /** Goes on with what was begun. Target systems and jobs must be known by now. */
  async start(): Promise<void> {
    const { config, store, log } = this.#options;
    const { created, settings } = await store.all();
    for (const [id, each] of settings) this.#settings.set(id, each);
    const places = [...Object.values(config.shared), ...Object.values(config.factories)];
    await this.#host.prepare([
      ...places.flatMap((place) => (place.on === 'host' ? [place.path] : [])),
      ...created.flatMap(({ place }) => (place.on === 'host' ? [place.base] : [])),
    ]);
    this.#created.start(created);
    const prune = (): void => {
      this.#prune().catch((err: unknown) => log.warn({ err }, 'settings of storages not pruned'));
    };
    this.#pruning = setInterval(prune, pruneMs).unref();
    prune();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#pruning);
    await this.#created[Symbol.asyncDispose]();
  }

  get types(): Readonly<Record<string, StorageType>> {
    return this.#options.config.factories;
  }

  /** @throws `NOT_FOUND`: no such storage, or its machine is gone and with it the files */
  async get(id: string): Promise<Storage> {
    const [, owner = '', name = ''] = ofTarget.exec(id) ?? [];
    const found =
      name === workspace
        ? await this.#ofJob(id, owner)
        : name === ''
          ? (this.#createdOf(id) ?? this.#shared(id))
          : this.#ofTarget(id, owner, name);
    if (found) return found;
    throw new GridError('NOT_FOUND', `there is no storage ${id}`);
  }

  /** Those that a caller may read, of target systems only while they are ready. */
  async list(
    caller: Caller,
    { offset, num, tags = [], workspaces = false }: StoragePage,
  ): Promise<{ ids: readonly string[]; total: number }> {
    if (caller.role === 'anonymous') return { ids: [], total: 0 };
    const ids = await this.#visible(caller, tags);
    const here = ids.slice(offset, offset + num);
    if (!workspaces) return { ids: here, total: ids.length };
    const jobs = await this.#options.jobs.list({
      ownerDn: caller.dn,
      grantedTo: aclSubjectsOf(caller),
      tags,
      offset: Math.max(0, offset - ids.length),
      num: num - here.length,
    });
    const theirs = jobs.ids.map((id) => `${id}-${workspace}`);
    return { ids: [...here, ...theirs], total: ids.length + jobs.total };
  }

  /** Ids of what a target system offers, by name; `HOME` first. */
  ofTarget({ id, image }: Pick<TargetSystem, 'id' | 'image'>): Readonly<Record<string, string>> {
    const shared = Object.entries(this.#options.config.shared)
      .filter(([, place]) => isOffered(place, image.metadata.name))
      .map(([name]) => name);
    return Object.fromEntries(['HOME', 'WORK', ...shared].map((name) => [name, `${id}-${name}`]));
  }

  /**
   * Stores the wish and returns; the directory is made behind the caller's back.
   * @throws `BAD_REQUEST` naming the parameter
   */
  async create(wish: NewStorage): Promise<CreatedStorage> {
    const { config, targets, clock } = this.#options;
    const record = planStorage(wish, {
      id: randomUUID(),
      types: config.factories,
      targets,
      nowMs: clock.now(),
    });
    await this.#created.add(record);
    return record;
  }

  /** @throws `NOT_FOUND`; `FORBIDDEN` for a storage that is nobody's to delete */
  async destroy(id: string): Promise<void> {
    await this.get(id);
    if (!this.#created.find(id))
      throw new GridError('FORBIDDEN', 'this storage goes with its target system, job or server');
    await this.#created.destroy(id, 'deleted by its owner');
  }

  /** @throws `NOT_FOUND`, `BAD_REQUEST` */
  async update(id: string, { terminationMs, ...change }: StorageChange): Promise<void> {
    const { store, jobs } = this.#options;
    const { jobId } = await this.get(id);
    const settings = { ...change, ...(change.acl && { acl: parseAcl(change.acl) }) };
    if (this.#created.find(id)) {
      await this.#created.update(id, (record) => ({
        ...record,
        settings: { ...record.settings, ...settings },
        terminationMs: terminationMs ?? record.terminationMs,
      }));
      return;
    }
    if (terminationMs !== undefined)
      throw new GridError('BAD_REQUEST', 'this storage lives as long as its target system or job');
    const { tags, acl, ...others } = settings;
    // a job and its directory are found by the same tags, and open to the same people
    const ofJob = { ...(tags && { tags }), ...(acl && { acl }) };
    if (jobId !== undefined && Object.keys(ofJob).length > 0) await jobs.update(jobId, ofJob);
    const kept = jobId === undefined ? settings : others;
    await this.#queue(id, async () => {
      const after = { ...this.#settings.get(id), ...kept };
      await store.saveSettings(id, after);
      this.#settings.set(id, after);
    });
  }

  /** The latest that a storage of a type may live to, if there is a limit. */
  latestTermination({ type }: Storage): number | undefined {
    const lifetime = this.types[type ?? '']?.maxLifetimeSeconds;
    return lifetime === undefined ? undefined : this.#options.clock.now() + lifetime * 1_000;
  }

  #ofTarget(id: string, targetId: string, name: string): Storage | undefined {
    const { targets, config } = this.#options;
    const target = targets.find(targetId);
    if (!target) return undefined;
    const system = targets.get(targetId);
    const place = config.shared[name];
    const root = rootOf(name, target, place, system.image.metadata.name);
    if (root === undefined) return undefined;
    const kind = name === 'HOME' || name === 'WORK' ? name : 'SHARED';
    const defaults = place ?? { description: descriptions[kind], umask: '077' };
    const { umask = defaults.umask, ...settings } = this.#settings.get(id) ?? {};
    const files = this.#onTarget(target, root, umask, name === 'WORK');
    return {
      id,
      kind,
      targetId,
      ownerDn: target.ownerDn,
      description: defaults.description,
      ...withoutSettings,
      ...settings,
      ...statusOf(system),
      umask: files.umask,
      metadata: true,
      terminationMs: system.terminationMs,
      files: () => files,
    };
  }

  async #ofJob(id: string, jobId: string): Promise<Storage | undefined> {
    const { jobs, targets } = this.#options;
    const job = await jobs.get(jobId);
    if (!targets.find(job.targetId)) return undefined;
    const { umask, ...settings } = this.#settings.get(id) ?? {};
    const files = umask === undefined ? jobs.files(job) : jobs.files(job).withUmask(umask);
    return {
      id,
      kind: 'USPACE',
      targetId: job.targetId,
      ownerDn: job.ownerDn,
      description: 'Job directory',
      ...withoutSettings,
      ...settings,
      tags: job.tags,
      acl: job.acl ?? [],
      ...jobStatusOf(job, targets.get(job.targetId)),
      umask: files.umask,
      metadata: false,
      terminationMs: job.terminationMs,
      jobId,
      files: () => files,
    };
  }

  #shared(id: string): Storage | undefined {
    const { config } = this.#options;
    const place = Object.hasOwn(config.shared, id) ? config.shared[id] : undefined;
    if (place?.on !== 'host') return undefined;
    const { umask = place.umask, ...settings } = this.#settings.get(id) ?? {};
    return {
      id,
      kind: 'SHARED',
      description: place.description,
      ...withoutSettings,
      acl: ['write:ROLE:user'],
      ...settings,
      status: 'READY',
      statusMessage: 'N/A',
      filesystem: 'this server',
      umask: Number.parseInt(umask, 8).toString(8),
      metadata: true,
      files: (userDn) => this.#host.ofUser(place.path, userDn, umask, place.quotaMiB),
    };
  }

  #createdOf(id: string): Storage | undefined {
    const record = this.#created.find(id);
    if (!record || record.state === 'DESTROYING') return undefined;
    const { place, settings, reason, state } = record;
    const system = place.on === 'target' ? this.#systemOf(place.targetId) : undefined;
    const mine = { status: states[state], statusMessage: reason };
    return {
      id,
      kind: 'CREATED',
      ...(place.on === 'target' && { targetId: place.targetId }),
      ownerDn: record.ownerDn,
      description: record.type,
      ...withoutSettings,
      ...settings,
      filesystem: place.on === 'host' ? 'this server' : `target system ${place.targetId}`,
      ...(state === 'READY' && system ? statusOf(system) : mine),
      umask: Number.parseInt(settings.umask ?? '077', 8).toString(8),
      metadata: record.metadata,
      terminationMs: record.terminationMs,
      type: record.type,
      files: () => this.#filesOfCreated(record),
    };
  }

  /** @throws `NOT_FOUND` its target system is gone */
  #filesOfCreated({ id, place, settings: { umask = '077' } }: CreatedStorage): FileSpace {
    if (place.on === 'host') return this.#host.ofStorage(place.base, id, umask, place.quotaMiB);
    const target = this.#options.targets.find(place.targetId);
    if (target) return this.#onTarget(target, place.path, umask);
    throw new GridError('NOT_FOUND', `the target system of storage ${id} is gone`);
  }

  #onTarget({ id, identity }: Target, root: string, umask: string, makesRoot = false): FileSpace {
    const { targets } = this.#options;
    const tsi = (): ReturnType<Target['tsi']> => {
      const target = targets.find(id);
      if (target) return target.tsi();
      throw new GridError('NOT_FOUND', `target system ${id} is gone`);
    };
    return new TsiFileSpace({ root, identity, tsi, umask, makesRoot });
  }

  #systemOf(id: string): TargetSystem | undefined {
    return this.#options.targets.find(id) && this.#options.targets.get(id);
  }

  /** Without directories of jobs. Own ones first, then what is shared with the caller. */
  async #visible(caller: Caller, tags: readonly string[]): Promise<string[]> {
    const { targets, config } = this.#options;
    const systems = targets.list({ ownerDn: caller.dn }).filter(({ state }) => state === 'READY');
    const ids = new Set([
      ...systems.flatMap((system) => Object.values(this.ofTarget(system))),
      ...Object.keys(config.shared).filter((name) => config.shared[name]?.on === 'host'),
    ]);
    for (const { id } of this.#created.all()) ids.add(id);
    for (const [id, { acl = [] }] of this.#settings)
      if (acl.length > 0 && !id.endsWith(`-${workspace}`)) ids.add(id);
    const visible: string[] = [];
    for (const id of ids) {
      const storage = await this.get(id).catch(() => undefined);
      const tagged = tags.every((tag) => storage?.tags.includes(tag));
      if (storage && tagged && isAllowed(storage, caller, 'read')) visible.push(id);
    }
    return visible;
  }

  /** Forgets settings of what is no more. */
  async #prune(): Promise<void> {
    const { store, targets, jobs } = this.#options;
    const known = new Set(targets.list({}).map(({ id }) => id));
    for (const id of this.#settings.keys()) {
      const [, owner = '', name] = ofTarget.exec(id) ?? [];
      if (name === undefined || known.has(owner)) continue;
      const isJob = name === workspace && (await isThere(jobs.get(owner)));
      if (isJob) continue;
      await store.remove(id);
      this.#settings.delete(id);
    }
  }
}

const withoutSettings = { tags: [] as readonly string[], acl: [] as readonly string[] };
const descriptions = {
  HOME: 'Home directory',
  WORK: 'Directories of jobs',
  SHARED: 'Filesystem',
} as const;

function rootOf(
  name: string,
  { jobsDirectory }: Target,
  place: SharedStorage | undefined,
  image: string,
): string | undefined {
  if (name === 'HOME') return '$HOME';
  if (name === 'WORK') return jobsDirectory;
  return place?.on === 'target' && isOffered(place, image) ? place.path : undefined;
}

function isOffered(place: SharedStorage, image: string): boolean {
  return place.on === 'target' && (place.images?.includes(image) ?? true);
}

function statusOf({ id, state, evidence }: TargetSystem) {
  return {
    status: states[state],
    statusMessage: evidence.fact,
    filesystem: `target system ${id}`,
  };
}

/** A job's directory exists once the job has made it. */
function jobStatusOf({ state }: Job, system: TargetSystem) {
  const status = statusOf(system);
  return state === 'CREATED' && status.status === 'READY'
    ? { ...status, status: states.INITIALIZING, statusMessage: 'the job makes it' }
    : status;
}

/** An unknown answer counts as yes. */
async function isThere(look: Promise<unknown>): Promise<boolean> {
  return await look.then(
    () => true,
    (error: unknown) => asGridError(error)?.row.http !== 404,
  );
}
