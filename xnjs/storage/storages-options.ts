import type { Clock } from '#kernel/clock.js';
import type { Log } from '#kernel/log.js';
import type { JobEngine } from '../job/engine.js';
import type { Targets } from '../target.js';
import type { TargetSystem } from '../vm/target-system.js';
import type { StoragesConfig } from './config.js';
import type { StorageStore } from './storage.js';

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
