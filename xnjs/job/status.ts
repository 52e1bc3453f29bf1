import type { Job } from './job.js';
import type { JobState } from './state.js';

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
  PENDING: 'QUEUED',
  QUEUED: 'QUEUED',
  RUNNING: 'RUNNING',
  POSTPROCESSING: 'STAGINGOUT',
  DESTROYING: 'UNDEFINED',
  DESTROYED: 'UNDEFINED',
};

/** `status` of a job (unicore-rest 3.5.3). One that is being stopped still shows how far it came. */
export function jobStatus({ state, run }: Job): JobStatus {
  if (state === 'DONE') return run.result?.successful ? 'SUCCESSFUL' : 'FAILED';
  if (state === 'ABORTING') return run.mainMs === undefined ? 'QUEUED' : 'RUNNING';
  return statusOf[state];
}

/** `consumedTime`: whole seconds as text, or `N/A`. */
export function consumedTime(job: Job, nowMs: number): Record<string, string> {
  const { createdMs, stagedMs, plan, run } = job;
  const end = run.endedMs ?? run.doneMs ?? nowMs;
  return {
    total: seconds(run.number === 1 ? createdMs : run.startedMs, run.doneMs ?? nowMs),
    'stage-in': plan?.stagesIn === false ? '0' : seconds(createdMs, stagedMs),
    preCommand: 'N/A',
    queued: seconds(run.submittedMs, run.mainMs ?? end),
    main: seconds(run.mainMs, end),
    postCommand: 'N/A',
    'stage-out': 'N/A',
  };
}

function seconds(fromMs: number | undefined, toMs: number | undefined): string {
  if (fromMs === undefined || toMs === undefined) return 'N/A';
  return String(Math.max(0, Math.round((toMs - fromMs) / 1_000)));
}
