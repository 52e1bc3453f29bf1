import type { JobType, RawDescription } from './description.js';
import type { Effect, JobState } from './state.js';

/** Why a job ended. `message` is empty for a success. */
export type JobResult = { readonly successful: boolean; readonly message: string };

/** One run of a job: what restarting it throws away. Times in ms since the epoch. */
export type Run = {
  /** 1, and one more with each restart. */
  readonly number: number;
  /** Stored before the job is submitted; names the submission for the TSI. */
  readonly attemptId?: string;
  readonly bssId?: string;
  readonly queue?: string;
  readonly exitCode?: number;
  readonly result?: JobResult;
  readonly startedMs: number;
  readonly submittedMs?: number;
  /** First seen running. */
  readonly mainMs?: number;
  /** Left the batch system. */
  readonly endedMs?: number;
  readonly doneMs?: number;
};

/** What the engine found out about a valid description; decides which states a job passes through. */
export type Plan = {
  readonly stagesIn: boolean;
  readonly waitsForClient: boolean;
  readonly executes: boolean;
  readonly ignoreNonZeroExitCode: boolean;
  /** Octal. */
  readonly umask: string;
};

/** A job as it is stored and shown. Changed by `step` alone, but for tags and life time. */
export type Job = {
  readonly id: string;
  readonly targetId: string;
  readonly ownerDn: string;
  readonly state: JobState;
  /** Asked for by the state, and not yet done. */
  readonly effects: readonly Effect[];
  /** `N/A` until the description has been read. */
  readonly name: string;
  readonly jobType: JobType | 'n/a';
  readonly description: RawDescription;
  /** In force at submission: role, group, … */
  readonly preferences: Readonly<Record<string, readonly string[]>>;
  readonly tags: readonly string[];
  /** Newest last. */
  readonly log: readonly string[];
  readonly createdMs: number;
  readonly terminationMs: number;
  /** Absent until the description has been read and the job directory made. */
  readonly plan?: Plan;
  /** Absolute path on the target system, with a slash at the end; once it has been made. */
  readonly directory?: string;
  readonly stagedMs?: number;
  /** The client said `start`. */
  readonly released: boolean;
  readonly run: Run;
};
