import type { Job, Plan } from './job.js';

/** `run`: which run of the job an answer belongs to; one to a former run is dropped. */
type Answered = { readonly atMs: number; readonly run: number };
/** What the user is to read of it, beside what the event says. */
type Logged = { readonly log?: readonly string[] };

export type JobEvent =
  | ({ type: 'prepared'; plan: Plan; facts: JobFacts } & Answered & Logged)
  | ({ type: 'staged' } & Answered & Logged)
  /** The time has come that the user named. */
  | ({ type: 'due' } & Answered)
  /** A pre- or post-command has been started on the login node. */
  | ({ type: 'launched'; pid: string } & Answered & Logged)
  | ({ type: 'commandEnded'; exitCode: number } & Answered)
  | ({ type: 'submitted'; bssId: string; pid?: string } & Answered & Logged)
  /** What an allocation waited for is there. */
  | ({ type: 'allocated'; bssId: string } & Answered)
  | ({ type: 'queued'; queue?: string; rawState?: string } & Answered)
  | ({ type: 'running'; queue?: string; rawState?: string } & Answered)
  /** The batch system has it no longer. */
  | ({ type: 'gone' } & Answered)
  | ({ type: 'held' } & Answered)
  | ({ type: 'resumed' } & Answered)
  /** The batch system does not pause the job, or does not let it go on. */
  | ({ type: 'refused'; reason: string } & Answered)
  | ({ type: 'finished'; exitCode: number } & Answered)
  | ({ type: 'stagedOut' } & Answered & Logged)
  /** The children of a sweep are stored. */
  | ({ type: 'childrenMade' } & Answered & Logged)
  | ({ type: 'swept' } & Answered)
  | ({ type: 'failed'; reason: string } & Answered & Logged)
  /** Nothing of the job runs any more. */
  | ({ type: 'stopped' } & Answered)
  /** The target system is proven gone, with everything that ran there. */
  | { type: 'lost'; atMs: number; reason: string; generation?: number }
  /** Run again since its machine was lost: that run, once. */
  | ({ type: 'restart' } & Answered)
  | ({ type: 'removed' } & Answered)
  | { type: 'start' | 'restart' | 'abort' | 'destroy' | 'pause' | 'resume'; atMs: number };

export type JobFacts = Pick<Job, 'name' | 'jobType'> & { readonly directory: string };
