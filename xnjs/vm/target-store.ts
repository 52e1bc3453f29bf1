import type { SiteChange } from '../changes/site-change.js';
import type { Amounts, Quota, QuotaScope } from './placement/quota.js';
import type { TargetSystem } from './target-system.js';

/**
 * The durable records. What a promise has answered for would survive a power cut; what is to be told of a
 * change is logged with it.
 */
export type TargetStore = {
  all(): AsyncIterable<TargetSystem>;
  /**
   * @param quotas given with a new record, which must be enough: it counts from then on, until it is removed
   * @throws `QUOTA_EXCEEDED` nothing was stored, since one of them is not enough
   */
  save(system: TargetSystem, change?: SiteChange, quotas?: readonly Quota[]): Promise<void>;
  /** Whether there is one, also where its storing was answered by a failure. */
  has(id: string): Promise<boolean>;
  /** Whether there was such a target system, which has been removed since; or what {@link noteRemoved} was told. */
  wasRemoved(id: string): Promise<boolean>;
  /** Of another machine of ours that nobody could look for: a domain or files of it that turn up are leftovers. */
  noteRemoved(id: string): Promise<void>;
  /**
   * What it means that one that was made then has neither a record nor such a note: notes are not kept for ever.
   * @returns `removed`: its note was dropped; `lost`: there would be one; `unclear`: this database is younger
   */
  absenceOf(createdMs: number): Promise<'removed' | 'lost' | 'unclear'>;
  remove(system: Pick<TargetSystem, 'id' | 'ownerDn'>, change?: SiteChange): Promise<void>;
  /** What the target systems of these take together at present. */
  used(scope: QuotaScope): Promise<Amounts>;
};
