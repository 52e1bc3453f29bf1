import { withoutInlineData } from './description.js';
import { JobError } from './errors.js';
import type { Job, JobResult, Plan, Run } from './job.js';
import { logLine } from './log-line.js';

/**
 * The life of a job (docs/protocols/jobs.md). A missing cell is an illegal event; late answers are cells
 * too. States with nothing to do are passed through: {@link passThrough}.
 */
export const transitions = {
  CREATED: {
    prepared: 'PREPROCESSING',
    failed: 'DONE',
    start: 'CREATED',
    restart: 'CREATED',
    abort: 'ABORTING',
    lost: 'DONE',
    destroy: 'DESTROYING',
  },
  PREPROCESSING: {
    staged: 'READY',
    failed: 'DONE',
    start: 'PREPROCESSING',
    restart: 'PREPROCESSING',
    abort: 'ABORTING',
    lost: 'DONE',
    destroy: 'DESTROYING',
  },
  READY: {
    start: 'PENDING',
    restart: 'READY',
    abort: 'ABORTING',
    lost: 'DONE',
    destroy: 'DESTROYING',
  },
  PENDING: {
    submitted: 'QUEUED',
    failed: 'DONE',
    start: 'PENDING',
    restart: 'PENDING',
    abort: 'ABORTING',
    lost: 'DONE',
    destroy: 'DESTROYING',
  },
  QUEUED: {
    queued: 'QUEUED',
    running: 'RUNNING',
    gone: 'POSTPROCESSING',
    start: 'QUEUED',
    restart: 'QUEUED',
    abort: 'ABORTING',
    lost: 'DONE',
    destroy: 'DESTROYING',
  },
  RUNNING: {
    queued: 'QUEUED',
    running: 'RUNNING',
    gone: 'POSTPROCESSING',
    start: 'RUNNING',
    restart: 'RUNNING',
    abort: 'ABORTING',
    lost: 'DONE',
    destroy: 'DESTROYING',
  },
  POSTPROCESSING: {
    // a listing that left the job out by mistake is corrected by the next
    queued: 'QUEUED',
    running: 'RUNNING',
    gone: 'POSTPROCESSING',
    finished: 'DONE',
    failed: 'DONE',
    start: 'POSTPROCESSING',
    restart: 'POSTPROCESSING',
    abort: 'ABORTING',
    lost: 'DONE',
    destroy: 'DESTROYING',
  },
  ABORTING: {
    prepared: 'ABORTING',
    staged: 'ABORTING',
    submitted: 'ABORTING',
    queued: 'ABORTING',
    running: 'ABORTING',
    gone: 'ABORTING',
    finished: 'ABORTING',
    failed: 'ABORTING',
    stopped: 'DONE',
    start: 'ABORTING',
    restart: 'ABORTING',
    abort: 'ABORTING',
    lost: 'DONE',
    destroy: 'DESTROYING',
  },
  DONE: {
    prepared: 'DONE',
    staged: 'DONE',
    submitted: 'DONE',
    queued: 'DONE',
    running: 'DONE',
    gone: 'DONE',
    finished: 'DONE',
    failed: 'DONE',
    stopped: 'DONE',
    start: 'DONE',
    restart: 'CREATED',
    abort: 'DONE',
    lost: 'DONE',
    destroy: 'DESTROYING',
  },
  DESTROYING: {
    prepared: 'DESTROYING',
    staged: 'DESTROYING',
    submitted: 'DESTROYING',
    queued: 'DESTROYING',
    running: 'DESTROYING',
    gone: 'DESTROYING',
    finished: 'DESTROYING',
    failed: 'DESTROYING',
    stopped: 'DESTROYING',
    start: 'DESTROYING',
    restart: 'DESTROYING',
    abort: 'DESTROYING',
    // the directory went with its target system
    lost: 'DESTROYED',
    destroy: 'DESTROYING',
    removed: 'DESTROYED',
  },
  DESTROYED: {},
} as const satisfies Record<string, Partial<Record<JobEvent['type'], string>>>;

export type JobState = keyof typeof transitions;

/** `run`: which run of the job an answer belongs to; one to a former run is dropped. */
export type JobEvent =
  | { type: 'prepared'; atMs: number; run: number; plan: Plan; facts: JobFacts }
  | { type: 'staged'; atMs: number; run: number }
  | { type: 'submitted'; atMs: number; run: number; bssId: string }
  | { type: 'queued'; atMs: number; run: number; queue?: string }
  | { type: 'running'; atMs: number; run: number; queue?: string }
  /** The batch system has it no longer. */
  | { type: 'gone'; atMs: number; run: number }
  | { type: 'finished'; atMs: number; run: number; exitCode: number }
  | { type: 'failed'; atMs: number; run: number; reason: string }
  /** Nothing of the job runs any more. */
  | { type: 'stopped'; atMs: number; run: number }
  /** The target system is proven gone, with everything that ran there. */
  | { type: 'lost'; atMs: number; reason: string }
  | { type: 'removed'; atMs: number; run: number }
  | { type: 'start'; atMs: number }
  | { type: 'restart'; atMs: number }
  | { type: 'abort'; atMs: number }
  | { type: 'destroy'; atMs: number };

export type JobFacts = Pick<Job, 'name' | 'jobType'> & { readonly directory: string };

/** What a state asks for. Each may be done again: after a crash nobody knows how far it came. */
export type Effect =
  /** Read the description, make the directory, clear what a former run left. */
  | { readonly do: 'prepare' }
  | { readonly do: 'stageIn' }
  | { readonly do: 'submit' }
  | { readonly do: 'watch' }
  | { readonly do: 'collectExitCode' }
  | { readonly do: 'stop' }
  | { readonly do: 'removeDirectory' };

const effectsOf: Record<JobState, readonly Effect[]> = {
  CREATED: [{ do: 'prepare' }],
  PREPROCESSING: [{ do: 'stageIn' }],
  READY: [],
  PENDING: [{ do: 'submit' }],
  QUEUED: [{ do: 'watch' }],
  RUNNING: [{ do: 'watch' }],
  POSTPROCESSING: [{ do: 'collectExitCode' }],
  ABORTING: [{ do: 'stop' }],
  DONE: [],
  DESTROYING: [{ do: 'stop' }, { do: 'removeDirectory' }],
  DESTROYED: [],
};

type Shortcut = { readonly when: (job: Job) => boolean; readonly to: JobState };
/** A state that has nothing to do for a job is left as soon as it is entered. */
const passThrough: Partial<Record<JobState, Shortcut>> = {
  PREPROCESSING: {
    when: ({ plan, stagedMs }) => !plan?.stagesIn || stagedMs !== undefined,
    to: 'READY',
  },
  READY: {
    when: ({ plan, released }) => released || plan?.waitsForClient === false,
    to: 'PENDING',
  },
  PENDING: { when: ({ plan }) => plan?.executes === false, to: 'DONE' },
  ABORTING: { when: ({ run }) => run.attemptId === undefined, to: 'DONE' },
};

const maxLogLines = 500;
export const abortedMessage = 'Job aborted.';

/** Pure: no clock, no I/O, no randomness. @throws {@link JobError} `JOB_ILLEGAL_EVENT` */
export function step(job: Job, event: JobEvent): { job: Job; effects: readonly Effect[] } {
  const row: Partial<Record<JobEvent['type'], JobState>> = transitions[job.state];
  if ('run' in event && event.run !== job.run.number) return { job, effects: [] };
  const to = row[event.type];
  if (to === undefined)
    throw new JobError(
      'JOB_ILLEGAL_EVENT',
      `${event.type} cannot happen to a job in state ${job.state}`,
      {
        jobId: job.id,
      },
    );
  const informed = learn(job, event, to);
  const state = settle(informed, to);
  if (state === job.state) return { job: informed, effects: [] };
  return enter(informed, state, event.atMs);
}

function settle(job: Job, state: JobState): JobState {
  const shortcut = passThrough[state];
  return shortcut?.when(job) ? settle(job, shortcut.to) : state;
}

function enter(job: Job, state: JobState, atMs: number): { job: Job; effects: readonly Effect[] } {
  const effects = effectsOf[state];
  const { run } = job;
  const next: Job = { ...job, state, effects, run: { ...run, ...entered(job, state, atMs) } };
  return { job: note(next, atMs, ...describe(next)), effects };
}

function entered(job: Job, state: JobState, atMs: number): Partial<Run> {
  const { number, result } = job.run;
  if (state === 'PENDING') return { attemptId: `${job.id}-${number}` };
  if (state === 'DONE')
    return { doneMs: atMs, result: result ?? { successful: true, message: '' } };
  return {};
}

function describe({ state, run: { result, exitCode } }: Job): string[] {
  if (state !== 'DONE') return [`Status set to ${state}.`];
  const code = exitCode === undefined ? [] : [`Exit code: ${exitCode}`];
  return [
    ...code,
    `Status set to DONE. Result: ${result?.successful ? 'SUCCESSFUL' : `NOT_SUCCESSFUL: ${result?.message ?? ''}`}`,
  ];
}

function note(job: Job, atMs: number, ...texts: string[]): Job {
  if (texts.length === 0) return job;
  return {
    ...job,
    log: [...job.log, ...texts.map((text) => logLine(atMs, text))].slice(-maxLogLines),
  };
}

/** The first reason stays: what follows from it must not hide it. */
function conclude(job: Job, result: JobResult): Job {
  return { ...job, run: { ...job.run, result: job.run.result ?? result } };
}

function inRun(job: Job, facts: Partial<Run>): Job {
  return { ...job, run: { ...job.run, ...facts } };
}

/** Takes over what the event tells. A job that is over, or about to be, learns nothing from late answers. */
function learn(job: Job, event: JobEvent, to: JobState): Job {
  const { atMs } = event;
  const late = to === 'DESTROYING' || to === 'ABORTING' || job.state === 'DONE';
  switch (event.type) {
    case 'restart':
      return job.state === 'DONE' ? restarted(job, atMs) : job;
    case 'abort':
      return job.state === 'DONE'
        ? job
        : conclude(job, { successful: false, message: abortedMessage });
    case 'submitted':
      // while it is aborted, too: what was started must be stopped
      if (job.state === 'DONE') return job;
      return note(
        inRun(job, { bssId: event.bssId, submittedMs: atMs }),
        atMs,
        `Submitted to TSI with BSSID=${event.bssId}`,
      );
    case 'stopped':
      return { ...job, effects: job.effects.filter((effect) => effect.do !== 'stop') };
    case 'lost':
      return conclude(job, { successful: false, message: event.reason });
    case 'start':
      return job.released ? job : { ...job, released: true };
    case 'destroy':
    case 'removed':
      return job;
    default:
      return late ? job : answered(job, event);
  }
}

type Answer = Extract<
  JobEvent,
  { type: 'prepared' | 'staged' | 'queued' | 'running' | 'gone' | 'finished' | 'failed' }
>;

function answered(job: Job, event: Answer): Job {
  const { atMs } = event;
  switch (event.type) {
    case 'prepared': {
      const next = { ...job, ...event.facts, plan: event.plan };
      return note(next, atMs, `Job directory: ${event.facts.directory}`);
    }
    case 'staged':
      return { ...job, stagedMs: atMs, description: withoutInlineData(job.description) };
    case 'queued':
      return event.queue === undefined ? job : inRun(job, { queue: event.queue });
    case 'running':
      return inRun(job, {
        mainMs: job.run.mainMs ?? atMs,
        ...(event.queue !== undefined && { queue: event.queue }),
      });
    case 'gone':
      // one that came and went between two listings ran from its submission on
      return inRun(job, {
        mainMs: job.run.mainMs ?? job.run.submittedMs ?? atMs,
        endedMs: job.run.endedMs ?? atMs,
      });
    case 'finished':
      return inRun(job, { exitCode: event.exitCode, result: judge(job, event.exitCode) });
    case 'failed':
      return conclude(job, { successful: false, message: event.reason });
  }
}

function judge(job: Job, exitCode: number): JobResult {
  const successful = exitCode === 0 || job.plan?.ignoreNonZeroExitCode === true;
  return { successful, message: successful ? '' : `The job ended with exit code ${exitCode}.` };
}

function restarted(job: Job, atMs: number): Job {
  const run: Run = { number: job.run.number + 1, startedMs: atMs };
  return note({ ...job, released: true, run }, atMs, 'Restarted by the user.');
}
