import type { Job } from './job.js';

export type JobState =
  | 'CREATED'
  | 'PREPROCESSING'
  | 'READY'
  /** `Not before` has not come. */
  | 'DELAYED'
  | 'PRECOMMAND'
  | 'PENDING'
  | 'QUEUED'
  | 'RUNNING'
  | 'PAUSING'
  | 'PAUSED'
  | 'RESUMING'
  /** The main run is over, how it ended is not known yet. */
  | 'POSTPROCESSING'
  | 'POSTCOMMAND'
  | 'STAGINGOUT'
  /** A parameter sweep, whose children run. */
  | 'SWEEPING'
  | 'ABORTING'
  | 'DONE'
  | 'DESTROYING'
  | 'DESTROYED';

/** What the user, or the end of a life time, orders. */
export type OrderType = 'start' | 'restart' | 'abort' | 'destroy' | 'pause' | 'resume';

/** What comes of an effect; may be late. */
export type AnswerType =
  | 'prepared'
  | 'staged'
  | 'due'
  | 'launched'
  | 'commandEnded'
  | 'submitted'
  | 'allocated'
  | 'queued'
  | 'running'
  | 'gone'
  | 'held'
  | 'resumed'
  | 'refused'
  | 'finished'
  | 'stagedOut'
  | 'childrenMade'
  | 'swept'
  | 'failed';

export type EventType = OrderType | AnswerType | 'stopped' | 'lost' | 'removed';

/** `FORMER`: the state that a job was paused in. */
type Row = Partial<Record<EventType, JobState | 'FORMER'>>;

const answers: readonly AnswerType[] = [
  ...(['prepared', 'staged', 'due', 'launched', 'commandEnded', 'submitted'] as const),
  ...(['allocated', 'queued', 'running', 'gone', 'held', 'resumed', 'refused'] as const),
  ...(['finished', 'stagedOut', 'childrenMade', 'swept', 'failed'] as const),
];

/** Whatever is still answered changes the state no more. */
function late(state: JobState): Row {
  return Object.fromEntries(answers.map((type) => [type, state]));
}

/** What may happen to each job that is not over, in `state`. */
function alive(state: JobState): Row {
  return { start: state, restart: state, abort: 'ABORTING', lost: 'DONE', destroy: 'DESTROYING' };
}

/** The batch system's word about the main run, after that has ended. */
function listed(state: JobState): Row {
  return { queued: state, running: state, gone: state };
}

/**
 * The life of a job (docs/protocols/jobs.md). A missing cell is an illegal event; late answers are cells
 * too. States with nothing to do are passed through: {@link passThrough}.
 */
export const transitions: Readonly<Record<JobState, Row>> = {
  CREATED: { ...alive('CREATED'), prepared: 'PREPROCESSING', failed: 'DONE' },
  PREPROCESSING: { ...alive('PREPROCESSING'), staged: 'READY', failed: 'DONE' },
  READY: { ...alive('READY'), start: 'DELAYED' },
  DELAYED: { ...alive('DELAYED'), due: 'PRECOMMAND', failed: 'DONE' },
  PRECOMMAND: {
    ...alive('PRECOMMAND'),
    launched: 'PRECOMMAND',
    commandEnded: 'PENDING',
    failed: 'DONE',
  },
  PENDING: { ...alive('PENDING'), submitted: 'QUEUED', failed: 'DONE' },
  QUEUED: {
    ...alive('QUEUED'),
    queued: 'QUEUED',
    running: 'RUNNING',
    allocated: 'RUNNING',
    gone: 'POSTPROCESSING',
    failed: 'DONE',
    pause: 'PAUSING',
  },
  RUNNING: {
    ...alive('RUNNING'),
    queued: 'QUEUED',
    running: 'RUNNING',
    gone: 'POSTPROCESSING',
    pause: 'PAUSING',
  },
  PAUSING: {
    ...alive('PAUSING'),
    ...listed('PAUSING'),
    gone: 'POSTPROCESSING',
    held: 'PAUSED',
    resumed: 'PAUSING',
    refused: 'FORMER',
    pause: 'PAUSING',
    resume: 'RESUMING',
  },
  PAUSED: {
    ...alive('PAUSED'),
    ...listed('PAUSED'),
    gone: 'POSTPROCESSING',
    pause: 'PAUSED',
    resume: 'RESUMING',
  },
  RESUMING: {
    ...alive('RESUMING'),
    ...listed('RESUMING'),
    gone: 'POSTPROCESSING',
    held: 'RESUMING',
    resumed: 'FORMER',
    refused: 'PAUSED',
    pause: 'PAUSING',
    resume: 'RESUMING',
  },
  POSTPROCESSING: {
    ...alive('POSTPROCESSING'),
    // a listing that left the job out by mistake is corrected by the next
    queued: 'QUEUED',
    running: 'RUNNING',
    gone: 'POSTPROCESSING',
    finished: 'POSTCOMMAND',
    failed: 'DONE',
  },
  POSTCOMMAND: {
    ...alive('POSTCOMMAND'),
    ...listed('POSTCOMMAND'),
    launched: 'POSTCOMMAND',
    commandEnded: 'STAGINGOUT',
    failed: 'DONE',
  },
  STAGINGOUT: {
    ...alive('STAGINGOUT'),
    ...listed('STAGINGOUT'),
    stagedOut: 'DONE',
    failed: 'DONE',
  },
  SWEEPING: { ...alive('SWEEPING'), childrenMade: 'SWEEPING', swept: 'DONE', failed: 'DONE' },
  ABORTING: { ...alive('ABORTING'), ...late('ABORTING'), abort: 'ABORTING', stopped: 'DONE' },
  DONE: {
    ...late('DONE'),
    stopped: 'DONE',
    start: 'DONE',
    restart: 'CREATED',
    abort: 'DONE',
    lost: 'DONE',
    destroy: 'DESTROYING',
  },
  DESTROYING: {
    ...late('DESTROYING'),
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
};

/** What a state asks for. Each may be done again: after a crash nobody knows how far it came. */
export type Effect =
  /** Read the description, make the directory, clear what a former run left. */
  | { readonly do: 'prepare' }
  | { readonly do: 'stageIn' }
  /** For the time that the user named. */
  | { readonly do: 'wait' }
  /** Start a command of its own on the login node. */
  | { readonly do: 'launch' }
  | { readonly do: 'awaitCommand' }
  | { readonly do: 'submit' }
  | { readonly do: 'awaitAllocation' }
  | { readonly do: 'watch' }
  | { readonly do: 'hold' }
  | { readonly do: 'resume' }
  | { readonly do: 'collectExitCode' }
  | { readonly do: 'stageOut' }
  | { readonly do: 'createChildren' }
  | { readonly do: 'awaitChildren' }
  | { readonly do: 'stop' }
  | { readonly do: 'removeDirectory' };

const effects: Readonly<Record<JobState, readonly Effect[]>> = {
  CREATED: [{ do: 'prepare' }],
  PREPROCESSING: [{ do: 'stageIn' }],
  READY: [],
  DELAYED: [{ do: 'wait' }],
  PRECOMMAND: [{ do: 'launch' }, { do: 'awaitCommand' }],
  PENDING: [{ do: 'submit' }],
  QUEUED: [{ do: 'watch' }],
  RUNNING: [{ do: 'watch' }],
  PAUSING: [{ do: 'hold' }],
  PAUSED: [{ do: 'watch' }],
  RESUMING: [{ do: 'resume' }],
  POSTPROCESSING: [{ do: 'collectExitCode' }],
  POSTCOMMAND: [{ do: 'launch' }, { do: 'awaitCommand' }],
  STAGINGOUT: [{ do: 'stageOut' }],
  SWEEPING: [{ do: 'createChildren' }, { do: 'awaitChildren' }],
  ABORTING: [{ do: 'stop' }],
  DONE: [],
  DESTROYING: [{ do: 'stop' }, { do: 'removeDirectory' }],
  DESTROYED: [],
};

/** @param state entered by `job` */
export function effectsOf(job: Job, state: JobState): readonly Effect[] {
  const granted = job.plan?.allocates !== true || job.run.granted === true;
  return state === 'QUEUED' && !granted ? [{ do: 'awaitAllocation' }] : effects[state];
}

type Shortcut = { readonly when: (job: Job, atMs: number) => boolean; readonly to: JobState };
const over: Shortcut = { when: ({ run }) => run.result !== undefined, to: 'DONE' };

/** A state that has nothing to do for a job is left as soon as it is entered, by the first that applies. */
export const passThrough: Partial<Record<JobState, readonly Shortcut[]>> = {
  PREPROCESSING: [
    { when: ({ plan, stagedMs }) => !plan?.stagesIn || stagedMs !== undefined, to: 'READY' },
  ],
  READY: [
    { when: ({ plan, released }) => released || plan?.waitsForClient === false, to: 'DELAYED' },
  ],
  DELAYED: [{ when: ({ plan }, atMs) => (plan?.notBeforeMs ?? 0) <= atMs, to: 'PRECOMMAND' }],
  PRECOMMAND: [
    { when: ({ plan }) => plan?.sweep !== undefined, to: 'SWEEPING' },
    { when: ({ plan }) => !plan?.preCommand, to: 'PENDING' },
  ],
  PENDING: [over, { when: ({ plan }) => plan?.executes === false, to: 'POSTPROCESSING' }],
  // nothing queues on a login node
  QUEUED: [{ when: ({ plan }) => plan?.onLoginNode === true, to: 'RUNNING' }],
  POSTPROCESSING: [{ when: ({ plan }) => plan?.executes === false, to: 'POSTCOMMAND' }],
  POSTCOMMAND: [over, { when: ({ plan }) => !plan?.postCommand, to: 'STAGINGOUT' }],
  STAGINGOUT: [over, { when: ({ plan }) => !plan?.stagesOut, to: 'DONE' }],
  ABORTING: [
    {
      when: ({ run }) => !run.attemptId && !run.pre && !run.post && !run.swept,
      to: 'DONE',
    },
  ],
};
