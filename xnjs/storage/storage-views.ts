import { GridError } from '#kernel/errors.js';
import type { FileSpace } from '../files/file-space.js';
import { TsiFileSpace } from '../files/tsi-file-space.js';
import type { Job } from '../job/job.js';
import type { Target } from '../target.js';
import { resourceStatusOf } from '../vm/resource-status.js';
import type { TargetSystem } from '../vm/target-system.js';
import type { SharedStorage } from './config.js';
import type { HostStorages } from './host-storages.js';
import type { CreatedStorage, Storage, StorageSettings } from './storage.js';
import type { StoragesOptions } from './storages-options.js';

const states = {
  INITIALIZING: 'INITIALIZING',
  READY: 'READY',
  FAILED: 'ERROR',
  DESTROYING: 'SHUTTING_DOWN',
  DESTROYED: 'SHUTTING_DOWN',
} as const;

export type StorageViewsOptions = Pick<StoragesOptions, 'config' | 'targets' | 'jobs'> & {
  readonly host: HostStorages;
  /** What has been changed of a storage that is not one a user had made. */
  readonly settingsOf: (id: string) => StorageSettings | undefined;
};

/** Storages as their users see them, each made of what it lies on, what is configured and what was changed. */
export class StorageViews {
  readonly #options: StorageViewsOptions;
  readonly #host: HostStorages;
  readonly #settingsOf: StorageViewsOptions['settingsOf'];

  constructor(options: StorageViewsOptions) {
    this.#options = options;
    this.#host = options.host;
    this.#settingsOf = options.settingsOf;
  }

  /** What a target system offers, which is its owner's. */
  ofTarget(id: string, targetId: string, name: string): Storage | undefined {
    const { targets, config } = this.#options;
    const target = targets.find(targetId);
    if (!target) return undefined;
    const system = targets.get(targetId);
    const place = config.shared[name];
    const root = rootOf(name, target, place, system.image.metadata.name);
    if (root === undefined) return undefined;
    const kind = name === 'HOME' || name === 'WORK' ? name : 'SHARED';
    const defaults = place ?? { description: descriptions[kind], umask: '077' };
    const { umask = defaults.umask, ...settings } = this.#settingsOf(id) ?? {};
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

  /** The directory of a job. @throws `JOB_UNKNOWN` */
  async ofJob(id: string, jobId: string): Promise<Storage | undefined> {
    const { jobs, targets } = this.#options;
    const job = await jobs.get(jobId);
    if (!targets.find(job.targetId)) return undefined;
    const { umask, ...settings } = this.#settingsOf(id) ?? {};
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

  /** What the operator shares on this host. */
  shared(id: string): Storage | undefined {
    const { config } = this.#options;
    const place = Object.hasOwn(config.shared, id) ? config.shared[id] : undefined;
    if (place?.on !== 'host') return undefined;
    const { umask = place.umask, ...settings } = this.#settingsOf(id) ?? {};
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

  /** What a user has had made. */
  created(record: CreatedStorage): Storage | undefined {
    if (record.state === 'DESTROYING') return undefined;
    const { id, place, settings, reason, state } = record;
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
      files: () => this.filesOfCreated(record),
    };
  }

  /** @throws `NOT_FOUND` its target system is gone */
  filesOfCreated({ id, place, settings: { umask = '077' } }: CreatedStorage): FileSpace {
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

/** Whether target systems of an image have it. */
export function isOffered(place: SharedStorage, image: string): boolean {
  return place.on === 'target' && (place.images?.includes(image) ?? true);
}

function statusOf(system: TargetSystem) {
  return {
    status: resourceStatusOf(system),
    statusMessage: system.evidence.fact,
    filesystem: `target system ${system.id}`,
  };
}

/** A job's directory exists once the job has made it. */
function jobStatusOf({ state }: Job, system: TargetSystem) {
  const status = statusOf(system);
  return state === 'CREATED' && status.status === 'READY'
    ? { ...status, status: states.INITIALIZING, statusMessage: 'the job makes it' }
    : status;
}
