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
  readonly targets: Pick<Targets, 'find'>;
  readonly clock: Clock;
  readonly log: Log;
  readonly config: Pick<JobConfig, 'reaperIntervalMs'>;
  readonly tell: (id: string, event: JobEvent) => Promise<void>;
  readonly closing: AbortSignal;
};

const pageSize = 500;
const reapedAtOnce = 100;

/** Tells the unfinished jobs of a target system that it is gone; `which`: those of them. @returns what they were told */
export async function loseJobs(
  { store, clock, tell }: EndsOptions,
  { targetId, reason }: { readonly targetId: string; readonly reason: string },
  which: (job: Pick<Job, 'state'>) => boolean = () => true,
): Promise<ReturnType<typeof lostEvent>> {
  const event = lostEvent(targetId, reason, clock);
  let afterId = '';
  for (;;) {
    const page = await store.unfinished({ targetId, afterId, num: pageSize });
    const last = page.at(-1);
    if (!last) return event;
    afterId = last.id;
    await Promise.all(page.filter(which).map(({ id }) => tell(id, event)));
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
  const { store, clock, config, log, tell, closing } = options;
  while (!closing.aborted) {
    try {
      const ids = await store.expired(clock.now(), reapedAtOnce);
      for (const id of ids) await tell(id, { type: 'destroy', atMs: clock.now() });
      if (ids.length === reapedAtOnce) continue;
    } catch (error) {
      log.error({ err: error }, 'expired jobs could not be looked for');
    }
    await clock.sleep(config.reaperIntervalMs, closing).catch(() => undefined);
  }
}

/**
 * Tells the jobs that had begun on a machine that it is gone, and has those run again that may be. A job that
 * was told by an earlier attempt, and is to run again, is known by how it ended.
 */
export async function replaceJobs(
  options: EndsOptions,
  lost: { readonly targetId: string; readonly reason: string },
  restart: (id: string) => Promise<void>,
): Promise<void> {
  const { store } = options;
  const { targetId } = lost;
  const event = await loseJobs(options, lost, ({ state }) => state !== 'CREATED');
  for (let offset = 0; ; offset += pageSize) {
    const { ids } = await store.list({ targetId }, { offset, num: pageSize });
    for (const id of ids) {
      const job = await store.find(id);
      const isLost = job?.state === 'DONE' && job.run.result?.message === event.reason;
      if (isLost && isRestartable(job)) await restart(id);
    }
    if (ids.length < pageSize) return;
  }
}

function isRestartable({ description: { Restartable: wish } }: Job): boolean {
  return wish === true || (typeof wish === 'string' && wish.toLowerCase() === 'true');
}
