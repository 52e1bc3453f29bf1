import type { CommandRun, Job } from './job.js';
import type { JobState } from './transitions.js';

/** The words of the REST interface, in their order. */
export type JobStatus =
  | 'UNDEFINED'
  | 'READY'
  | 'STAGINGIN'
  | 'QUEUED'
  | 'RUNNING'
  | 'STAGINGOUT'
  | 'SUCCESSFUL'
  | 'FAILED';

const statusOf: Record<Exclude<JobState, 'DONE' | 'ABORTING'>, JobStatus> = {
  CREATED: 'READY',
  PREPROCESSING: 'STAGINGIN',
  READY: 'READY',
  DELAYED: 'QUEUED',
  PRECOMMAND: 'QUEUED',
  PENDING: 'QUEUED',
  QUEUED: 'QUEUED',
  RUNNING: 'RUNNING',
  PAUSING: 'UNDEFINED',
  PAUSED: 'UNDEFINED',
  RESUMING: 'UNDEFINED',
  POSTPROCESSING: 'STAGINGOUT',
  POSTCOMMAND: 'STAGINGOUT',
  STAGINGOUT: 'STAGINGOUT',
  SWEEPING: 'RUNNING',
  DESTROYING: 'UNDEFINED',
  DESTROYED: 'UNDEFINED',
};

/** `status` of a job (unicore-rest 3.5.3). One that is being stopped still shows how far it came. */
export function jobStatus({ state, run }: Job): JobStatus {
  if (state === 'DONE') return run.result?.successful ? 'SUCCESSFUL' : 'FAILED';
  if (state === 'ABORTING') return run.mainMs === undefined ? 'QUEUED' : 'RUNNING';
  return statusOf[state];
}

/** `consumedTime` (tsi-xnjs 5.7): whole seconds as text, or `N/A`. */
export function consumedTime(job: Job, nowMs: number): Record<string, string> {
  const { createdMs, stagingMs, stagedMs, plan, run } = job;
  const now = run.doneMs ?? nowMs;
  const end = run.endedMs ?? now;
  const stagesIn = stagingMs !== undefined || stagedMs !== undefined;
  const stagedIn = seconds(stagingMs ?? createdMs, stagedMs ?? now);
  return {
    total: seconds(run.number === 1 ? createdMs : run.startedMs, now),
    'stage-in': stagesIn ? stagedIn : plan === undefined ? 'N/A' : '0',
    preCommand: command(run.pre, now),
    queued: seconds(run.submittedMs, run.mainMs ?? end),
    main: seconds(run.mainMs, end),
    postCommand: command(run.post, now),
    'stage-out': run.stageOutMs === undefined ? 'N/A' : seconds(run.stageOutMs, now),
  };
}

/** One line of the job's log: where its time went, in seconds. */
export function timeProfile(job: Job): string {
  const times = Object.entries(consumedTime(job, job.run.doneMs ?? job.createdMs));
  return `Time profile: ${times.map(([phase, time]) => `${phase} ${time}`).join(', ')}`;
}

function command(run: CommandRun | undefined, nowMs: number): string {
  return run ? seconds(run.startedMs, run.endedMs ?? nowMs) : 'N/A';
}

function seconds(fromMs: number | undefined, toMs: number | undefined): string {
  if (fromMs === undefined || toMs === undefined) return 'N/A';
  return String(Math.max(0, Math.round((toMs - fromMs) / 1_000)));
}
