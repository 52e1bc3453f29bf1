import type { Clock } from '#kernel/clock.js';
import type { Log } from '#kernel/log.js';
import type { Targets } from '../target.js';
import type { JobConfig } from './config.js';
import type { JobEvent } from './events.js';
import type { Job } from './job.js';
import type { JobStore } from './store.js';
import { lostEvent } from './views.js';

/** What ends many jobs at once. */
export type EndsOptions = {
  readonly store: JobStore;
  readonly targets: Pick<Targets, 'find' | 'parked'>;
  readonly clock: Clock;
  readonly log: Log;
  readonly config: Pick<JobConfig, 'reaperIntervalMs'>;
  readonly tell: (id: string, event: JobEvent) => Promise<void>;
  /** What is no step of a job's life. */
  readonly amend: (id: string, change: (job: Job) => Job) => Promise<unknown>;
  readonly closing: AbortSignal;
};

export const pageSize = 500;
const reapedAtOnce = 100;

/** Tells the unfinished jobs of a target system that it is gone; `which`: those of them. */
export async function loseJobs(
  options: EndsOptions,
  { targetId, reason, generation }: LostMachine,
  which: (job: Job) => boolean = () => true,
): Promise<void> {
  const { clock, tell } = options;
  const event = {
    ...lostEvent(targetId, reason, clock),
    ...(generation !== undefined && { generation }),
  };
  for await (const page of unfinishedOf(options, targetId))
    await Promise.all(page.filter(which).map(({ id }) => tell(id, event)));
}

export type LostMachine = {
  readonly targetId: string;
  readonly reason: string;
  /** Which machine of the target system comes in its place; absent: none. */
  readonly generation?: number;
};

export type ReplacedMachine = LostMachine & {
  readonly generation: number;
  /** When the machine was lost, ms since the epoch: what began later began on the next. */
  readonly atMs: number;
};

async function* unfinishedOf({ store }: EndsOptions, targetId: string): AsyncIterable<Job[]> {
  let afterId = '';
  for (;;) {
    const page = await store.unfinished({ targetId, afterId, num: pageSize });
    const last = page.at(-1);
    if (!last) return;
    afterId = last.id;
    yield page;
  }
}

/** All jobs of a target system that there are, children of sweeps too. */
export async function* jobsOf({ store }: EndsOptions, targetId: string): AsyncIterable<Job> {
  for (let offset = 0; ; offset += pageSize) {
    const { ids } = await store.list({ targetId }, { offset, num: pageSize });
    for (const id of ids) {
      const job = await store.find(id);
      if (!job) continue;
      yield job;
      const children = job.plan?.sweep === undefined ? [] : await store.children(id);
      for (const child of children) {
        const found = await store.find(child.id);
        if (found) yield found;
      }
    }
    if (ids.length < pageSize) return;
  }
}

/** A sweep that went with its target system leaves records of children. */
export async function destroyChildren(
  { store, targets, clock, tell }: EndsOptions,
  { id, targetId }: Job,
): Promise<void> {
  for (const child of await store.children(id)) {
    await tell(child.id, { type: 'destroy', atMs: clock.now() });
    if (!targets.find(targetId))
      await tell(child.id, lostEvent(targetId, 'it no longer exists', clock));
  }
}

/** Destroys jobs whose life time is over, until the engine closes. */
export async function reapJobs(options: EndsOptions): Promise<void> {
  const { store, targets, clock, config, log, tell, closing } = options;
  while (!closing.aborted) {
    try {
      const ids = await store.expired(clock.now(), reapedAtOnce, targets.parked?.());
      for (const id of ids) await tell(id, { type: 'destroy', atMs: clock.now() });
      if (ids.length === reapedAtOnce) continue;
    } catch (error) {
      log.error({ err: error }, 'expired jobs could not be looked for');
    }
    await clock.sleep(config.reaperIntervalMs, closing).catch(() => undefined);
  }
}

/**
 * Tells the jobs that had begun on a machine that it is gone, and has those run again that may be. May be
 * repeated: each job stores for which machine this has been settled, in the step that does it, so that none is
 * told or started twice.
 */
export async function replaceJobs(
  options: EndsOptions,
  lost: ReplacedMachine,
  restart: (id: string, run: number) => Promise<void>,
): Promise<void> {
  const { targetId, generation, atMs } = lost;
  const concerns = ({ createdMs, run, settled }: Job): boolean =>
    Math.max(createdMs, run.startedMs) <= atMs && (settled?.generation ?? 0) < generation;
  for await (const page of unfinishedOf(options, targetId))
    for (const { id } of page.filter((job) => job.state === 'CREATED' && concerns(job)))
      await options.amend(id, (job) => ({ ...job, settled: { generation } }));
  await loseJobs(options, lost, (job) => job.state !== 'CREATED' && concerns(job));
  for await (const { id, state, run, settled, ...job } of jobsOf(options, targetId)) {
    const isLost = settled?.generation === generation && settled.lostRun === run.number;
    if (state === 'DONE' && isLost && isRestartable(job)) await restart(id, run.number);
  }
}

function isRestartable({ description: { Restartable: wish } }: Pick<Job, 'description'>): boolean {
  return wish === true || (typeof wish === 'string' && wish.toLowerCase() === 'true');
}
