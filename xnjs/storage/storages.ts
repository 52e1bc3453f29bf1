import { randomUUID } from 'node:crypto';
import { asGridError, GridError } from '#kernel/errors.js';
import type { Caller } from '#kernel/http/caller.js';
import { createSerial } from '#kernel/persistence/serial.js';
import { aclSubjectsOf, isAllowed, parseAcl } from '#kernel/security/acl.js';
import { isUsable } from '../vm/state.js';
import type { TargetSystem } from '../vm/target-system.js';
import type { StorageType } from './config.js';
import { CreatedStorages } from './created-storages.js';
import { HostStorages } from './host-storages.js';
import { planStorage, type NewStorage } from './new-storage.js';
import { isOffered, StorageViews } from './storage-views.js';
import type { CreatedStorage, Storage, StorageSettings } from './storage.js';
import type { StoragesOptions } from './storages-options.js';

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

/**
 * All storages of this server: HOME, WORK and what the operator shares in each target system, job
 * directories, directories of the host, and what users have made by a storage factory.
 */
export class Storages implements AsyncDisposable {
  readonly #options: StoragesOptions;
  readonly #host: HostStorages;
  readonly #created: CreatedStorages;
  readonly #views: StorageViews;
  readonly #settings = new Map<string, StorageSettings>();
  readonly #queue = createSerial();
  #pruning: NodeJS.Timeout | undefined;

  constructor(options: StoragesOptions) {
    const { config, clock } = options;
    this.#options = options;
    this.#host = new HostStorages(clock);
    this.#views = new StorageViews({
      ...options,
      host: this.#host,
      settingsOf: (id) => this.#settings.get(id),
    });
    this.#created = new CreatedStorages({
      ...options,
      perUser: config.perUser,
      reaperIntervalMs: config.reaperIntervalMs,
      filesOf: (record) => this.#views.filesOfCreated(record),
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
        ? await this.#views.ofJob(id, owner)
        : name === ''
          ? this.#ofNone(id)
          : this.#views.ofTarget(id, owner, name);
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

  /** One that belongs to no target system or job. */
  #ofNone(id: string): Storage | undefined {
    const created = this.#created.find(id);
    return (created && this.#views.created(created)) ?? this.#views.shared(id);
  }

  /** Without directories of jobs. Own ones first, then what is shared with the caller. */
  async #visible(caller: Caller, tags: readonly string[]): Promise<string[]> {
    const { targets, config } = this.#options;
    const systems = targets.list({ ownerDn: caller.dn }).filter(isUsable);
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

/** An unknown answer counts as yes. */
async function isThere(look: Promise<unknown>): Promise<boolean> {
  return await look.then(
    () => true,
    (error: unknown) => asGridError(error)?.row.http !== 404,
  );
}
