import type { SiteChange } from '../changes/site-change.js';
import type { TargetSystem } from './target-system.js';

/**
 * The durable records. What a promise has answered for would survive a power cut; what is to be told of a
 * change is logged with it.
 */
export type TargetStore = {
  all(): Promise<TargetSystem[]>;
  save(system: TargetSystem, change?: SiteChange): Promise<void>;
  /** Whether there was such a target system, which has been removed since. */
  wasRemoved(id: string): Promise<boolean>;
  remove(system: Pick<TargetSystem, 'id' | 'ownerDn'>, change?: SiteChange): Promise<void>;
};
