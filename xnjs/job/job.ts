import type { JobType, RawDescription } from './description.js';
import type { Notice, NotificationWish } from './notices.js';
import type { Effect, JobState } from './transitions.js';

/** Why a job ended. `message` is empty for a success. */
export type JobResult = { readonly successful: boolean; readonly message: string };

/** A pre- or post-command that runs on the login node, by itself. */
export type CommandRun = {
  /** Stored before it is started. */
  readonly attemptId: string;
  readonly pid?: string;
  readonly startedMs: number;
  readonly endedMs?: number;
  readonly exitCode?: number;
};

/** One run of a job: what restarting it throws away. Times in ms since the epoch. */
export type Run = {
  /** 1, and one more with each restart. */
  readonly number: number;
  /** Stored before the job is submitted; names the submission for the TSI. */
  readonly attemptId?: string;
  /** What the batch system knows it by; `INTERACTIVE_<node>_<pid>` on a login node. */
  readonly bssId?: string;
  /** Of several login nodes the one for what runs beside the batch system; stored before that is started. */
  readonly node?: string;
  /** On a login node. */
  readonly pid?: string;
  readonly queue?: string;
  /** The batch system's own word. */
  readonly rawState?: string;
  /** The batch system has given what an allocation asked for. */
  readonly granted?: boolean;
  /** Where a paused job goes on. */
  readonly heldFrom?: 'QUEUED' | 'RUNNING';
  /** Why the last order to pause or resume was not carried out. */
  readonly refusal?: string;
  /** How far the job says it is, from 0 to 1. */
  readonly progress?: number;
  readonly exitCode?: number;
  readonly result?: JobResult;
  readonly pre?: CommandRun;
  readonly post?: CommandRun;
  /** Children were asked for. */
  readonly swept?: boolean;
  readonly startedMs: number;
  readonly submittedMs?: number;
  /** First seen running. */
  readonly mainMs?: number;
  /** Left the batch system. */
  readonly endedMs?: number;
  readonly stageOutMs?: number;
  readonly doneMs?: number;
};

/** How a command's failure counts. */
export type CommandPlan = { readonly ignoreNonZeroExitCode: boolean };

/** What the engine found out about a valid description; decides which states a job passes through. */
export type Plan = {
  readonly stagesIn: boolean;
  readonly stagesOut: boolean;
  readonly waitsForClient: boolean;
  readonly executes: boolean;
  readonly ignoreNonZeroExitCode: boolean;
  /** Octal. */
  readonly umask: string;
  readonly preCommand?: CommandPlan;
  readonly postCommand?: CommandPlan;
  /** ms since the epoch */
  readonly notBeforeMs?: number;
  readonly onLoginNode?: boolean;
  readonly allocates?: boolean;
  /** How many children a sweep has. */
  readonly sweep?: number;
  readonly notify?: NotificationWish;
};

/** A job as it is stored and shown. Changed by `step` alone, but for tags, ACL, life time and notices sent. */
export type Job = {
  readonly id: string;
  /** The sweep that this job is a child of. */
  readonly parentId?: string;
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
  /** What others may do, `read:DN:CN=Bob`; absent: nothing. */
  readonly acl?: readonly string[];
  /** Newest last. */
  readonly log: readonly string[];
  readonly createdMs: number;
  readonly terminationMs: number;
  /** Its address as its client knows it. */
  readonly url?: string;
  /** Notifications that nobody has taken yet, the oldest first. */
  readonly notices?: readonly Notice[];
  /** Absent until the description has been read and the job directory made. */
  readonly plan?: Plan;
  /** Absolute path on the target system, with a slash at the end; once it has been made. */
  readonly directory?: string;
  /** When its directory was made. */
  readonly preparedMs?: number;
  readonly stagingMs?: number;
  readonly stagedMs?: number;
  /** The last machine of its target system whose end has been settled for it, and the run that this has ended. */
  readonly settled?: { readonly generation: number; readonly lostRun?: number };
  /** ms since the epoch: until when the time is settled that its target system was parked. */
  readonly putOffMs?: number;
  /** The client said `start`. */
  readonly released: boolean;
  readonly run: Run;
};

/** `pre` or `post`: which command a state runs. */
export function commandOf(job: Job): 'pre' | 'post' {
  return job.state === 'PRECOMMAND' ? 'pre' : 'post';
}
