import { withoutInlineData } from './description.js';
import type { JobEvent } from './events.js';
import { commandOf, type CommandRun, type Job, type JobResult, type Run } from './job.js';
import { logLine } from './log-line.js';
import type { AnswerType, JobState } from './transitions.js';
import { without } from './without.js';

const maxLogLines = 500;
export const abortedMessage = 'Job aborted.';

/** Adds to what the user reads. */
export function note(job: Job, atMs: number, ...texts: readonly string[]): Job {
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

function failed(job: Job, message: string): Job {
  return conclude(job, { successful: false, message });
}

function inRun(job: Job, facts: Partial<Run>): Job {
  return { ...job, run: { ...job.run, ...facts } };
}

function inCommand(job: Job, facts: Partial<CommandRun>): Job {
  // an aborted job runs at most one of them, and the pre-command has no attempt after it
  const which = job.state === 'ABORTING' ? (job.run.post ? 'post' : 'pre') : commandOf(job);
  const command = job.run[which];
  return command ? inRun(job, { [which]: { ...command, ...facts } }) : job;
}

function done(job: Job, effect: Job['effects'][number]['do']): Job {
  return { ...job, effects: job.effects.filter((asked) => asked.do !== effect) };
}

/** Takes over what the event tells. A job that is over, or about to be, learns nothing from late answers. */
export function learn(job: Job, event: JobEvent, to: JobState): Job {
  const { atMs } = event;
  const isLate = to === 'DESTROYING' || to === 'ABORTING' || job.state === 'DONE';
  switch (event.type) {
    case 'restart':
      return job.state === 'DONE'
        ? restarted(job, atMs, 'run' in event ? 'Restarted: its machine was lost.' : byUser)
        : job;
    case 'abort':
      return job.state === 'DONE' || job.state === to
        ? job
        : note(failed(job, abortedMessage), atMs, 'Abort requested by the user.');
    case 'pause':
    case 'resume':
      return job.state === to ? job : ordered(job, event.type, atMs);
    case 'submitted':
    case 'launched':
      // while it is aborted, too: what was started must be stopped
      return job.state === 'DONE' ? job : started(job, event, to);
    case 'stopped':
      return done(job, 'stop');
    case 'lost':
      return job.state === 'DONE' ? job : lost(job, event);
    case 'start':
      return job.released ? job : { ...job, released: true };
    case 'destroy':
    case 'removed':
      return job;
    default:
      return isLate ? job : answered(job, event);
  }
}

const titles = { pause: 'Pause', resume: 'Resume' };

function ordered(job: Job, order: 'pause' | 'resume', atMs: number): Job {
  return note({ ...job, run: without(job.run, 'refusal') }, atMs, `${titles[order]} requested.`);
}

function started(
  job: Job,
  event: Extract<JobEvent, { type: 'submitted' | 'launched' }>,
  to: JobState,
): Job {
  const { atMs, log = [] } = event;
  if (event.type === 'launched') {
    const next = note(inCommand(job, { pid: event.pid }), atMs, ...log);
    return to === 'ABORTING' ? next : done(next, 'launch');
  }
  const ids = { bssId: event.bssId, ...(event.pid !== undefined && { pid: event.pid }) };
  const times = { submittedMs: atMs, ...(job.plan?.onLoginNode && { mainMs: atMs }) };
  return note(inRun(job, { ...ids, ...times }), atMs, ...log);
}

type Answer = Exclude<Extract<JobEvent, { type: AnswerType }>, { type: 'submitted' | 'launched' }>;

function answered(job: Job, event: Answer): Job {
  const { atMs } = event;
  const said = 'log' in event ? note(job, atMs, ...(event.log ?? [])) : job;
  switch (event.type) {
    case 'prepared':
      return { ...said, ...event.facts, plan: event.plan, preparedMs: atMs };
    case 'staged':
      // what children stage in, a restart needs again
      return job.plan?.sweep === undefined
        ? { ...said, stagedMs: atMs, description: withoutInlineData(job.description) }
        : { ...said, stagedMs: atMs };
    case 'commandEnded':
      return commandEnded(job, event);
    case 'queued':
    case 'running':
    case 'gone':
    case 'allocated':
      return listed(job, event);
    case 'held':
      return note(job, atMs, 'Paused.');
    case 'resumed':
      return note(job, atMs, 'Resumed.');
    case 'refused': {
      const order = job.state === 'PAUSING' ? 'paused' : 'resumed';
      const refusal = `The job could not be ${order}: ${event.reason}`;
      return note(inRun(job, { refusal }), atMs, refusal);
    }
    case 'finished':
      return finished(job, event.exitCode, atMs);
    case 'childrenMade':
      return done(said, 'createChildren');
    case 'swept':
      return inRun(job, { exitCode: 0, endedMs: atMs });
    case 'failed':
      return failed(said, event.reason);
    case 'due':
    case 'stagedOut':
      return said;
  }
}

function commandEnded(job: Job, { exitCode, atMs }: Extract<Answer, { type: 'commandEnded' }>) {
  const pre = commandOf(job) === 'pre';
  const title = pre ? 'pre-command' : 'post-command';
  const { plan } = job;
  const ended = note(
    inCommand(job, { exitCode, endedMs: atMs }),
    atMs,
    `User ${title} ended with exit code ${exitCode}.`,
  );
  const ignored = (pre ? plan?.preCommand : plan?.postCommand)?.ignoreNonZeroExitCode === true;
  return exitCode === 0 || ignored
    ? ended
    : failed(ended, `The ${title} ended with exit code ${exitCode}.`);
}

function listed(
  job: Job,
  event: Extract<Answer, { type: 'queued' | 'running' | 'gone' | 'allocated' }>,
): Job {
  const { atMs } = event;
  const { mainMs, endedMs, submittedMs } = job.run;
  const over = ['POSTCOMMAND', 'STAGINGOUT'].includes(job.state);
  if (over) return job;
  if (event.type === 'allocated')
    return note(
      inRun(job, { bssId: event.bssId, granted: true, mainMs: atMs }),
      atMs,
      `Allocation granted with BSSID=${event.bssId}`,
    );
  if (event.type === 'gone') {
    // one that came and went between two listings ran from its submission on
    const times = { mainMs: mainMs ?? submittedMs ?? atMs, endedMs: endedMs ?? atMs };
    return endedMs === undefined
      ? note(inRun(job, times), atMs, 'Completed on the batch system.')
      : inRun(job, times);
  }
  const { queue, rawState } = event;
  const known = {
    ...(queue !== undefined && { queue }),
    ...(rawState !== undefined && { rawState }),
    ...(event.type === 'running' && { mainMs: mainMs ?? atMs }),
  };
  // should a listing have said otherwise, it was mistaken
  return { ...job, run: { ...without(job.run, 'endedMs'), ...known } };
}

function finished(job: Job, exitCode: number, atMs: number): Job {
  const known = note(inRun(job, { exitCode }), atMs, `Exit code: ${exitCode}`);
  const successful = exitCode === 0 || job.plan?.ignoreNonZeroExitCode === true;
  return successful ? known : failed(known, `The job ended with exit code ${exitCode}.`);
}

function lost(job: Job, { reason, generation }: Extract<JobEvent, { type: 'lost' }>): Job {
  const told = failed(job, reason);
  if (generation === undefined) return told;
  return { ...told, settled: { generation, lostRun: job.run.number } };
}

const byUser = 'Restarted by the user.';

function restarted(job: Job, atMs: number, text: string): Job {
  const run: Run = { number: job.run.number + 1, startedMs: atMs };
  return note({ ...job, released: true, run }, atMs, text);
}
