import type { Clock } from '#kernel/clock.js';
import type { Log } from '#kernel/log.js';
import type { Staging } from '../staging/staging.js';
import type { Targets } from '../target.js';
import type { JobConfig } from './config.js';
import type { JobSubmission } from './job-submission.js';
import type { NoticeSender } from './notice-sender.js';
import type { JobStore } from './store.js';

export type JobEngineOptions = {
  readonly store: JobStore;
  readonly targets: Targets;
  readonly staging: Staging;
  /** Absent: jobs are always taken. */
  readonly submission?: Pick<JobSubmission, 'check'>;
  /** The engine closes it. */
  readonly notices: NoticeSender;
  /** Told of each job that was taken. */
  readonly onSubmitted?: (() => void) | undefined;
  readonly clock: Clock;
  readonly log: Log;
  readonly config: JobConfig;
};
