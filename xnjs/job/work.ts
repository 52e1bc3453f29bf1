import type { Clock } from '#kernel/clock.js';
import { errorText, GridError } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import { linkSignals } from '#kernel/net/deadline.js';
import type { FileSpace } from '../files/file-space.js';
import { removal, TsiFileSpace } from '../files/tsi-file-space.js';
import type { Staging } from '../staging/staging.js';
import type { Target } from '../target.js';
import type { Tsi } from '../tsi/tsi.js';
import type { Children } from './children.js';
import { awaitAllocation, awaitCommand, collect } from './collect.js';
import type { JobConfig } from './config.js';
import { deletePassing } from './delete-files.js';
import { JobError } from './errors.js';
import type { JobEvent } from './events.js';
import type { Job } from './job.js';
import { laneOf, type Lanes } from './lanes.js';
import { prepare } from './prepare.js';
import { jobDirectory } from './runs.js';
import { stop } from './stop.js';
import { launch, submit } from './submit.js';
import { findSweep } from './sweep.js';
import type { Effect } from './transitions.js';
import type { Watcher } from './watcher.js';

/** The target system of a job is proven gone. */
export class TargetLost extends GridError<'NOT_FOUND'> {
  constructor(targetId: string, reason: string) {
    super('NOT_FOUND', `target system ${targetId} lost: ${reason}`, { vmId: targetId });
  }
}

export type JobWorkOptions = {
  /** @throws {@link TargetLost} */
  readonly target: (targetId: string) => Target;
  readonly lanes: Lanes;
  /** Transfers may take long: they do not keep short calls waiting. */
  readonly stagingLanes: Lanes;
  readonly watcher: Watcher;
  readonly staging: Staging;
  readonly children: Children;
  readonly clock: Clock;
  readonly log: Log;
  readonly config: JobConfig;
  /** Adds to the log that the user reads. */
  readonly remark: (job: Job, text: string) => Promise<void>;
  /**
   * Stores the login node of a run, unless it has one.
   * @returns the one that it has
   */
  readonly settle: (job: Job, node: string) => Promise<string>;
  /** The engine is closing: even what must not be cut short otherwise is. */
  readonly closing: AbortSignal;
};

type Timed<Event> = Event extends unknown ? Omit<Event, 'atMs' | 'run'> : never;
export type News = Timed<Extract<JobEvent, { run: number }>>;
export type ListedNews = Extract<News, { type: 'queued' | 'running' | 'gone' }>;
type Work = Exclude<Effect['do'], 'watch'>;
/** Waits its turn, and for the target; what the TSI refuses is tried a few times more. */
export type Call = <T>(
  work: (tsi: Tsi, target: Target) => T | Promise<T>,
  onRefusal?: (attempt: number, error: unknown) => Promise<void>,
) => Promise<T>;

/** One effect under way. */
export type Task = {
  readonly job: Job;
  readonly call: Call;
  /** The same in a lane of its own: who waits for one login node does not keep the others' calls waiting. */
  readonly callOn: <T>(
    node: string,
    work: (tsi: Tsi, target: Target) => T | Promise<T>,
    onRefusal?: Parameters<Call>[1],
  ) => Promise<T>;
  /** The job has gone on without this effect, or the engine closes. */
  readonly signal: AbortSignal;
  readonly options: JobWorkOptions;
  /** Attempts that were stored by this process and never sent: nothing of them can be running. */
  readonly unsent: Set<string>;
};

/** What comes of an effect that must come to an end, whatever becomes of it. */
const comesToAnEnd = { stop: 'stopped', removeDirectory: 'removed' } as const;
const longestReason = 2_000;

/** Performs the effects of jobs. All of it may be done twice. */
export class JobWork {
  readonly #options: JobWorkOptions;
  readonly #unsent = new Set<string>();

  constructor(options: JobWorkOptions) {
    this.#options = options;
  }

  /** The job has just got an attempt: of its main run, or of the command that its state runs. */
  attemptStored({ state, run }: Job): void {
    const { attemptId } =
      (state === 'PRECOMMAND' ? run.pre : state === 'POSTCOMMAND' ? run.post : run) ?? {};
    if (attemptId !== undefined) this.#unsent.add(attemptId);
  }

  /**
   * @param signal the job has gone on without this effect
   * @returns what came of it; `undefined` if it was cut short
   */
  async perform(job: Job, effect: Work, signal: AbortSignal): Promise<JobEvent | undefined> {
    const { clock, log, closing } = this.#options;
    const { number: run } = job.run;
    try {
      const news = await this.#do(effect, job, signal);
      return { ...news, run, atMs: clock.now() };
    } catch (error) {
      if (signal.aborted || closing.aborted) return undefined;
      const about = { atMs: clock.now(), run };
      const gone = error instanceof TargetLost;
      if (!gone) log.info({ jobId: job.id, effect, err: error }, 'a step of a job failed');
      if (effect === 'stop' || effect === 'removeDirectory')
        return { type: comesToAnEnd[effect], ...about };
      const text = errorText(error).slice(0, longestReason);
      if (gone) return { type: 'lost', atMs: about.atMs, reason: text };
      const reason = error instanceof GridError ? text : `Processing failed: ${text}`;
      const type = effect === 'hold' || effect === 'resume' ? 'refused' : 'failed';
      return { type, ...about, reason };
    }
  }

  async #do(effect: Work, job: Job, superseded: AbortSignal): Promise<News> {
    using ended = linkSignals(superseded, this.#options.closing);
    const { signal } = ended;
    const call = this.#caller(job, signal);
    const callOn: Task['callOn'] = (node, work, onRefusal) =>
      this.#caller(job, signal, node)(work, onRefusal);
    const task: Task = { job, call, callOn, signal, options: this.#options, unsent: this.#unsent };
    const { children } = this.#options;
    switch (effect) {
      case 'prepare':
        return await prepare(task);
      case 'stageIn':
        return { type: 'staged', log: await this.#stage(task, 'in') };
      case 'wait':
        return await this.#wait(task);
      case 'launch':
        return await launch(task);
      case 'awaitCommand':
        return await awaitCommand(task);
      case 'submit':
        return await submit(task);
      case 'awaitAllocation':
        return await awaitAllocation(task);
      case 'hold':
      case 'resume':
        return await this.#signalBatch(task, effect);
      case 'collectExitCode':
        return await collect(task);
      case 'stageOut':
        return {
          type: 'stagedOut',
          log: [...(await this.#stage(task, 'out')), ...(await deletePassing(task))],
        };
      case 'createChildren':
        return { type: 'childrenMade', log: await children.create(job) };
      case 'awaitChildren':
        await children.over(job, signal);
        return { type: 'swept' };
      case 'stop':
        return await stop(task);
      case 'removeDirectory':
        await call((tsi, target) =>
          tsi.execute(target.identity, removal(jobDirectory(target, job))),
        );
        return { type: 'removed' };
    }
  }

  async #wait({ job, signal, options: { clock } }: Task): Promise<News> {
    const dueMs = job.plan?.notBeforeMs ?? 0;
    // timers hold 2^31 ms, and clocks are set
    for (;;) {
      const leftMs = dueMs - clock.now();
      if (leftMs <= 0) return { type: 'due' };
      await clock.sleep(Math.min(leftMs, 3_600_000), signal);
    }
  }

  /** Only a target that does not answer is waited for; other failures are the staging's own. */
  async #stage({ job, signal, options }: Task, direction: 'in' | 'out'): Promise<string[]> {
    const { stagingLanes, staging, target } = options;
    const outcome = await stagingLanes.run(
      job.targetId,
      async () => {
        const there = target(job.targetId);
        there.tsi(); // throws while nothing answers
        const tsi = (): Tsi => target(job.targetId).tsi();
        const site = { files: this.files(job, there), tsi, target: there };
        const asked = { ...job, description: ownDescription(job, options.config.sweepLimit) };
        return await staging.stage(asked, direction, site, signal).catch((error: unknown) => {
          if (error instanceof GridError && error.code === 'TSI_UNAVAILABLE') throw error;
          return { error };
        });
      },
      signal,
    );
    if ('error' in outcome) {
      const title = direction === 'in' ? 'Staging in failed' : 'Stage-out failed';
      if (!(outcome.error instanceof GridError)) throw outcome.error;
      throw new GridError(outcome.error.code, `${title}: ${errorText(outcome.error)}`);
    }
    return outcome.log.map((line) => line.slice(0, longestReason));
  }

  async #signalBatch({ job, call }: Task, order: 'hold' | 'resume'): Promise<News> {
    const { bssId } = job.run;
    if (bssId === undefined || job.plan?.onLoginNode)
      throw new JobError('CONFLICT', 'a process on the login node cannot be paused');
    await call((tsi, target) => tsi[order](target.identity, bssId));
    return { type: order === 'hold' ? 'held' : 'resumed' };
  }

  /** The job's directory, for itself and its owner. */
  files(job: Job, { id, identity, jobsDirectory }: Target): FileSpace {
    return new TsiFileSpace({
      root: jobDirectory({ jobsDirectory }, job),
      identity,
      tsi: () => this.#options.target(id).tsi(),
      umask: job.plan?.umask ?? this.#options.config.defaultUmask,
    });
  }

  #caller(job: Job, ended: AbortSignal, node?: string): Call {
    const { lanes, clock, config, target } = this.#options;
    return async (work, onRefusal) => {
      for (let refused = 0; ; refused++) {
        try {
          return await lanes.run(
            laneOf(job.targetId, node),
            async () => {
              const there = target(job.targetId);
              return await work(there.tsi(), there);
            },
            ended,
          );
        } catch (error) {
          if (!isRefusal(error)) throw error;
          await onRefusal?.(refused + 1, error);
          if (refused >= config.refusedRetries) throw error;
          await clock.sleep(config.refusedDelayMs * 2 ** refused, ended);
        }
      }
    };
  }
}

/** Of a sweep, what the parent itself does. */
function ownDescription({ parentId, description }: Job, sweepLimit: number): Job['description'] {
  const sweep = parentId === undefined ? findSweep(description, sweepLimit) : undefined;
  return sweep?.parent ?? description;
}

function isRefusal(error: unknown): boolean {
  return (
    error instanceof GridError && (error.code === 'TSI_FAILED' || error.code === 'TSI_PROTOCOL')
  );
}
