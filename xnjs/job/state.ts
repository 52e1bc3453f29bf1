import { JobError } from './errors.js';
import type { JobEvent } from './events.js';
import type { Job, Run } from './job.js';
import { learn, note } from './learn.js';
import { timeProfile } from './status.js';
import { effectsOf, passThrough, transitions, type Effect, type JobState } from './transitions.js';

/** Pure: no clock, no I/O, no randomness. @throws {@link JobError} `JOB_ILLEGAL_EVENT` */
export function step(job: Job, event: JobEvent): { job: Job; effects: readonly Effect[] } {
  if ('run' in event && event.run !== job.run.number) return { job, effects: [] };
  const cell = transitions[job.state][event.type];
  if (cell === undefined)
    throw new JobError(
      'JOB_ILLEGAL_EVENT',
      `${event.type} cannot happen to a job in state ${job.state}`,
      { jobId: job.id },
    );
  const to = cell === 'FORMER' ? (job.run.heldFrom ?? 'QUEUED') : cell;
  const informed = learn(job, event, to);
  const state = settle(informed, to, event.atMs);
  if (state === job.state) return { job: informed, effects: [] };
  return enter(informed, state, event.atMs);
}

function settle(job: Job, state: JobState, atMs: number): JobState {
  const shortcut = passThrough[state]?.find(({ when }) => when(job, atMs));
  return shortcut ? settle(job, shortcut.to, atMs) : state;
}

function enter(job: Job, state: JobState, atMs: number): { job: Job; effects: readonly Effect[] } {
  const effects = effectsOf(job, state);
  const run = { ...job.run, ...entered(job, state, atMs) };
  const staging = state === 'PREPROCESSING' && { stagingMs: atMs };
  const next: Job = { ...job, ...staging, state, effects, run };
  return { job: note(next, atMs, ...describe(next)), effects };
}

function entered({ id, state: from, run }: Job, state: JobState, atMs: number): Partial<Run> {
  const attemptId = `${id}-${run.number}`;
  switch (state) {
    case 'PENDING':
      return { attemptId };
    case 'PRECOMMAND':
      return { pre: { attemptId: `${attemptId}-pre`, startedMs: atMs } };
    case 'POSTCOMMAND':
      return { post: { attemptId: `${attemptId}-post`, startedMs: atMs } };
    case 'PAUSING':
      return from === 'QUEUED' || from === 'RUNNING' ? { heldFrom: from } : {};
    case 'STAGINGOUT':
      return { stageOutMs: atMs };
    case 'SWEEPING':
      return { swept: true, mainMs: atMs };
    case 'DONE':
      return { doneMs: atMs, result: run.result ?? { successful: true, message: '' } };
    default:
      return {};
  }
}

/** Words of the original, which knows these states by the ones around them. */
const saidAs: Partial<Record<JobState, string>> = {
  DELAYED: 'PENDING',
  PRECOMMAND: 'PENDING, PRECOMMAND',
  POSTCOMMAND: 'POSTPROCESSING, POSTCOMMAND',
  STAGINGOUT: 'POSTPROCESSING, STAGINGOUT',
  SWEEPING: 'RUNNING, its children run',
};

function describe(job: Job): string[] {
  const { state, plan, run } = job;
  if (state === 'DELAYED')
    return [`Status set to PENDING, not before ${new Date(plan?.notBeforeMs ?? 0).toISOString()}.`];
  if (state !== 'DONE') return [`Status set to ${saidAs[state] ?? state}.`];
  const { result } = run;
  return [
    `Status set to DONE. Result: ${result?.successful ? 'SUCCESSFUL' : `NOT_SUCCESSFUL: ${result?.message ?? ''}`}`,
    timeProfile(job),
  ];
}
