import type { Job } from './job.js';

export type JobFilter = {
  readonly ownerDn?: string;
  /** With `ownerDn`: also those whose ACL names one of these, `GROUP:physics`. */
  readonly grantedTo?: readonly string[];
  readonly targetId?: string;
  /** All of them. */
  readonly tags?: readonly string[];
};

export type JobUsage = {
  readonly ownerDn: string;
  readonly total: number;
  readonly unfinished: number;
};

export type JobPage = { readonly ids: readonly string[]; readonly total: number };

/** The durable records. What a promise has answered for would survive a power cut. */
export type JobStore = {
  insert(job: Job): Promise<void>;
  find(id: string): Promise<Job | undefined>;
  /**
   * Loads, changes and stores a job in one transaction; changes of one job happen, and are answered, one
   * after another.
   * `change` must be pure. A job that ends up DESTROYED is removed.
   * @throws `JOB_UNKNOWN`; what `change` throws
   */
  change(id: string, change: (job: Job) => Job): Promise<Job>;
  /** Newest first, without children of sweeps and those that are being destroyed. */
  list(filter: JobFilter, page: { offset: number; num: number }): Promise<JobPage>;
  /** How many {@link list} would find there. */
  count(targetId: string): Promise<number>;
  /** By owner, without children of sweeps and those that are being destroyed. */
  usage(): Promise<JobUsage[]>;
  /** Those for which something is still to be done, in pages by ascending id. */
  unfinished(page: { afterId?: string; num: number; targetId?: string }): Promise<Job[]>;
  /** Of a sweep: which there are, and for which something is still to be done. */
  children(parentId: string): Promise<{ id: string; active: boolean }[]>;
  /** Ids of those whose life time is over and that nobody destroys yet, but of those on these targets. */
  expired(nowMs: number, num: number, but?: readonly string[]): Promise<string[]>;
};
