import { placeOf } from './listed.js';
import type { Job } from './job.js';
import type { JobEvent } from './events.js';
import type { ProgressReader } from './progress.js';
import type { Effect } from './transitions.js';
import type { Watcher } from './watcher.js';
import { withResolvers } from './with-resolvers.js';
import type { JobWork } from './work.js';

/** What is being done for a job at present. At most one thing, so that answers come in order. */
type Performance = {
  readonly effect: Effect['do'];
  readonly run: number;
  readonly superseded: AbortController;
  latest: Job;
  readonly done: Promise<void>;
};

/** Made once: each job is superseded several times, and an error costs a stack trace. */
const supersededReason = new Error('the job has gone on');

export type PerformancesOptions = {
  readonly work: JobWork;
  readonly watcher: Watcher;
  readonly progress: ProgressReader;
  /** Stores what came of an effect. */
  readonly tell: (id: string, event: JobEvent) => Promise<void>;
  readonly closing: AbortSignal;
};

/** What is being done for jobs: for each the first effect of its newest version, and nothing of older ones. */
export class Performances {
  readonly #options: PerformancesOptions;
  readonly #performing = new Map<string, Performance>();

  constructor(options: PerformancesOptions) {
    this.#options = options;
  }

  /** Resolves when nothing is being done any more that was when this was called. */
  async settled(): Promise<void> {
    await Promise.allSettled([...this.#performing.values()].map(({ done }) => done));
  }

  /** Sees to it that what this newest version of a job asks for is being done. */
  advance(job: Job): void {
    if (this.#options.closing.aborted) return;
    const [effect] = job.effects;
    this.#watch(job, effect);
    const current = this.#performing.get(job.id);
    if (current) {
      current.latest = job;
      if (current.effect !== effect?.do || current.run !== job.run.number)
        current.superseded.abort(supersededReason);
      return;
    }
    if (!effect || effect.do === 'watch') return;
    const superseded = new AbortController();
    const { promise: done, resolve } = withResolvers<undefined>();
    const performance = { effect: effect.do, run: job.run.number, superseded, latest: job, done };
    this.#performing.set(job.id, performance);
    void this.#perform(performance, effect.do).finally(() => resolve(undefined));
  }

  async #perform(performance: Performance, effect: Exclude<Effect['do'], 'watch'>): Promise<void> {
    const job = performance.latest;
    const event = await this.#options.work.perform(job, effect, performance.superseded.signal);
    if (event) await this.#options.tell(job.id, event);
    this.#performing.delete(job.id);
    if (performance.latest !== job) this.advance(performance.latest);
  }

  #watch(job: Job, effect: Effect | undefined): void {
    const { watcher, progress } = this.#options;
    const { id: jobId, targetId, run, plan } = job;
    const place = placeOf(job);
    const raw = (plan?.notify?.bssStatus.length ?? 0) > 0;
    if (effect?.do === 'watch' && place)
      watcher.watch(targetId, { jobId, run: run.number, raw, ...place });
    else watcher.unwatch(targetId, jobId);
    if (job.state === 'RUNNING') progress.watch(job);
    else progress.unwatch(job);
  }
}
