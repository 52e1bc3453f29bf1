import type { EnrolmentRecord } from '../context/enrolments.js';
import type { Quota } from '../placement/quota.js';
import type { MachineSpec, TargetSystem } from '../target-system.js';
import type { SiteChange } from '../../changes/site-change.js';

/** A machine that runs and is nobody's, or is about to: the durable record. */
export type Spare = MachineSpec & {
  /** As of the target system that it becomes. */
  readonly agentDisks?: readonly string[];
  /** On whose behalf its image was fetched. */
  readonly callerDn: string;
  /** ms since the epoch */
  readonly createdMs: number;
  /** By what it proves that it is this one; it takes that along when it is claimed. */
  readonly enrolment?: EnrolmentRecord;
};

/** The durable records. What a promise has answered for would survive a power cut. */
export type SpareStore = {
  all(): Promise<Spare[]>;
  save(spare: Spare): Promise<void>;
  /** @param mayBeLeft nobody could look: a domain of it that turns up is a leftover */
  remove(id: string, mayBeLeft: boolean): Promise<void>;
  /**
   * The spare of the same id becomes this target system, in one transaction.
   * @throws `QUOTA_EXCEEDED`; `CONFLICT` there is no such spare any more
   */
  claim(system: TargetSystem, change: SiteChange, quotas?: readonly Quota[]): Promise<void>;
};
