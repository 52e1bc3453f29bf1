import { randomUUID } from 'node:crypto';
import type { Clock } from '#kernel/clock.js';
import { errorText, GridError } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import type { FileSpace } from '../files/file-space.js';
import { withoutCredentials } from '../staging/entries.js';
import type { Staging } from '../staging/staging.js';
import type { Target, TargetEvent, Targets } from '../target.js';
import type { JobConfig } from './config.js';
import {
  jobName,
  jobTags,
  parseDescription,
  withoutInlineData,
  type RawDescription,
} from './description.js';
import { JobError } from './errors.js';
import type { Job } from './job.js';
import { Lanes } from './lanes.js';
import { logLine } from './log-line.js';
import { step, type Effect, type JobEvent } from './state.js';
import type { JobFilter, JobPage, JobStore } from './store.js';
import { Watcher } from './watcher.js';
import { withResolvers } from './with-resolvers.js';
import { JobWork, listedNews, TargetLost } from './work.js';

export type JobEngineOptions = {
  readonly store: JobStore;
  readonly targets: Targets;
  readonly staging: Staging;
  readonly clock: Clock;
  readonly log: Log;
  readonly config: JobConfig;
};

export type NewJob = {
  readonly ownerDn: string;
  readonly targetId: string;
  readonly description: RawDescription;
  readonly preferences?: Job['preferences'];
};

/** What is being done for a job at present. At most one thing, so that answers come in order. */
type Performance = {
  readonly effect: Effect['do'];
  readonly run: number;
  readonly superseded: AbortController;
  latest: Job;
  readonly done: Promise<void>;
};

const startPage = 500;
const reapedAtOnce = 100;
const storeRetryMs = 1_000;

/**
 * Runs jobs. Each is changed by `step` alone; state and effects land in one transaction before anything
 * is done about them, and what was not done when the server died is done by the next `attach`.
 */
export class JobEngine implements AsyncDisposable {
  readonly #options: JobEngineOptions;
  readonly #log: Log;
  readonly #lanes: Lanes;
  readonly #watcher: Watcher;
  readonly #work: JobWork;
  readonly #performing = new Map<string, Performance>();
  /** Why targets are gone that are still known. */
  readonly #lost = new Map<string, string>();
  readonly #listeners = new Set<(job: Job) => void>();
  readonly #background = new Set<Promise<unknown>>();
  readonly #closing = new AbortController();
  readonly #unsubscribe: () => void;

  /** Listens to the target systems from here on; nothing is done before `attach`. */
  constructor(options: JobEngineOptions) {
    const { targets, clock, config } = options;
    this.#options = options;
    this.#log = options.log.child({ part: 'xnjs.job' });
    this.#lanes = new Lanes({
      clock,
      ...config,
      onTrouble: (vmId, error) =>
        this.#log.warn(
          { vmId, err: errorText(error) },
          'target system does not answer, its jobs wait',
        ),
    });
    this.#watcher = new Watcher({
      targets,
      clock,
      log: this.#log,
      intervalMs: config.statusIntervalMs,
      maxIntervalMs: config.statusMaxIntervalMs,
      onEntry: async (jobId, run, entry) => {
        const news = listedNews(entry);
        if (news) await this.#tell(jobId, { ...news, run, atMs: clock.now() });
      },
    });
    this.#work = new JobWork({
      target: (id) => this.#target(id),
      lanes: this.#lanes,
      watcher: this.#watcher,
      staging: options.staging,
      clock,
      log: this.#log,
      config,
      closing: this.#closing.signal,
    });
    this.#unsubscribe = targets.subscribe((event) => this.#onTarget(event));
  }

  /** Goes on with every job that is not over. The target systems must be known by now. */
  async attach(): Promise<void> {
    const { store, targets, clock } = this.#options;
    let unfinished = 0;
    let afterId = '';
    for (;;) {
      const page = await store.unfinished({ afterId, num: startPage });
      for (const job of page)
        if (targets.find(job.targetId)) this.#advance(job);
        else this.#spawn(this.#tell(job.id, lostEvent(job.targetId, 'it no longer exists', clock)));
      unfinished += page.length;
      const last = page.at(-1);
      if (!last) break;
      afterId = last.id;
    }
    if (unfinished > 0) this.#log.info({ jobs: unfinished }, 'unfinished jobs taken up again');
    this.#spawn(this.#reap());
  }

  /**
   * Stores the job and returns; all that can be wrong with its description becomes its result.
   * @throws `NOT_FOUND` no such target system
   */
  async submit({ ownerDn, targetId, description, preferences = {} }: NewJob): Promise<Job> {
    const { store, targets, clock, config } = this.#options;
    this.#closing.signal.throwIfAborted();
    if (!targets.find(targetId))
      throw new JobError('NOT_FOUND', `there is no target system ${targetId}`, { vmId: targetId });
    const nowMs = clock.now();
    const job: Job = {
      id: randomUUID(),
      targetId,
      ownerDn,
      state: 'CREATED',
      effects: [{ do: 'prepare' }],
      ...summarise(description),
      description,
      preferences,
      log: [logLine(nowMs, "Created with type 'JSON'")],
      createdMs: nowMs,
      terminationMs: nowMs + config.lifetimeSeconds * 1_000,
      released: false,
      run: { number: 1, startedMs: nowMs },
    };
    await store.insert(job);
    this.#log.debug({ jobId: job.id, dn: ownerDn, vmId: targetId }, 'job submitted');
    this.#announce(job);
    this.#advance(job);
    return shown(job);
  }

  /** Without inline data. @throws {@link JobError} `JOB_UNKNOWN`, also while it is being destroyed */
  async get(id: string): Promise<Job> {
    const job = await this.#options.store.find(id);
    if (job && job.state !== 'DESTROYING') return shown(job);
    throw new JobError('JOB_UNKNOWN', `there is no job ${id}`, { jobId: id });
  }

  /** Newest first. */
  async list({
    offset,
    num,
    ...filter
  }: JobFilter & { offset: number; num: number }): Promise<JobPage> {
    return await this.#options.store.list(filter, { offset, num });
  }

  /** Lets a job go on that waits for its client's files. */
  async start(id: string): Promise<void> {
    await this.#order(id, 'start');
  }

  /** A job that is over is left as it is. */
  async abort(id: string): Promise<void> {
    await this.#order(id, 'abort');
  }

  /** Runs a job that is over once more, in the same directory and without staging in again. */
  async restart(id: string): Promise<void> {
    await this.#order(id, 'restart');
  }

  /** Accepts the removal: aborts, removes the directory, then the record. */
  async destroy(id: string): Promise<void> {
    await this.#order(id, 'destroy');
  }

  /** What is the owner's to change at any time. */
  async update(
    id: string,
    change: { tags?: readonly string[]; terminationMs?: number },
  ): Promise<Job> {
    await this.get(id);
    const job = await this.#options.store.change(id, (before) => ({ ...before, ...change }));
    this.#announce(job);
    return shown(job);
  }

  /** The job's directory. @throws `NOT_FOUND` its target system is gone, and the files with it */
  files(job: Job): FileSpace {
    return this.#work.files(job, this.#target(job.targetId));
  }

  /** What the batch system says of a job. */
  async details(id: string): Promise<string> {
    const { targetId, run } = await this.get(id);
    if (run.bssId === undefined) return 'N/A';
    const target = this.#target(targetId);
    return await target.tsi().details(target.identity, run.bssId);
  }

  /** Called with each new version of a job, after it has been stored. @returns ends it */
  onChange(listener: (job: Job) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Lets go of every job; they run on, and `attach` finds them again. */
  async close(): Promise<void> {
    this.#unsubscribe();
    this.#closing.abort(new GridError('SITE_UNAVAILABLE', 'the job engine is closing'));
    this.#lanes[Symbol.dispose]();
    this.#watcher[Symbol.dispose]();
    await Promise.allSettled([...this.#performing.values()].map(({ done }) => done));
    await Promise.allSettled(this.#background);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #order(id: string, type: 'start' | 'abort' | 'restart' | 'destroy'): Promise<void> {
    await this.get(id);
    await this.#apply(id, { type, atMs: this.#options.clock.now() });
  }

  async #apply(id: string, event: JobEvent): Promise<Job> {
    let before: Job | undefined;
    let entered: readonly Effect[] = [];
    const after = await this.#options.store.change(id, (job) => {
      before = job;
      const next = step(job, event);
      entered = next.effects;
      return next.job;
    });
    if (after === before) return after;
    if (entered.some((effect) => effect.do === 'submit')) this.#work.attemptStored(after);
    if (after.state !== before?.state)
      this.#log.debug({ jobId: id, from: before?.state, to: after.state }, 'job changed');
    this.#announce(after);
    this.#advance(after);
    return after;
  }

  /** Like `#apply`, for news that nobody waits for: kept until they are stored. */
  async #tell(id: string, event: JobEvent): Promise<void> {
    while (!this.#closing.signal.aborted) {
      try {
        await this.#apply(id, event);
        return;
      } catch (error) {
        if (error instanceof JobError) {
          if (error.code !== 'JOB_UNKNOWN')
            this.#log.error({ jobId: id, err: error }, 'news of a job dropped');
          return;
        }
        this.#log.error(
          { jobId: id, err: error },
          'news of a job could not be stored, trying again',
        );
        await this.#options.clock.sleep(storeRetryMs, this.#closing.signal).catch(() => undefined);
      }
    }
  }

  /** Sees to it that what this newest version of a job asks for is being done. */
  #advance(job: Job): void {
    if (this.#closing.signal.aborted) return;
    const [effect] = job.effects;
    this.#watch(job, effect);
    const current = this.#performing.get(job.id);
    if (current) {
      current.latest = job;
      if (current.effect !== effect?.do || current.run !== job.run.number)
        current.superseded.abort();
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
    const event = await this.#work.perform(job, effect, performance.superseded.signal);
    if (event) await this.#tell(job.id, event);
    this.#performing.delete(job.id);
    if (performance.latest !== job) this.#advance(performance.latest);
  }

  #watch({ id: jobId, targetId, run }: Job, effect: Effect | undefined): void {
    if (effect?.do === 'watch' && run.bssId !== undefined)
      this.#watcher.watch(targetId, { jobId, run: run.number, bssId: run.bssId });
    else this.#watcher.unwatch(targetId, jobId);
  }

  #announce(job: Job): void {
    for (const listener of this.#listeners) listener(job);
  }

  #target(id: string): Target {
    const reason = this.#lost.get(id);
    const target = this.#options.targets.find(id);
    if (reason === undefined && target) return target;
    throw new TargetLost(id, reason ?? 'it no longer exists');
  }

  #onTarget(event: TargetEvent): void {
    if (event.type === 'ready') {
      this.#lost.delete(event.targetId);
      this.#lanes.resume(event.targetId);
    } else {
      this.#lost.set(event.targetId, event.reason);
      this.#spawn(this.#loseJobs(event.targetId, event.reason));
    }
  }

  async #loseJobs(targetId: string, reason: string): Promise<void> {
    const { store, clock } = this.#options;
    const event = lostEvent(targetId, reason, clock);
    let afterId = '';
    for (;;) {
      const page = await store.unfinished({ targetId, afterId, num: startPage });
      const last = page.at(-1);
      if (!last) return;
      afterId = last.id;
      await Promise.all(page.map(({ id }) => this.#tell(id, event)));
    }
  }

  /** Destroys jobs whose life time is over. */
  async #reap(): Promise<void> {
    const { store, clock, config } = this.#options;
    while (!this.#closing.signal.aborted) {
      try {
        const ids = await store.expired(clock.now(), reapedAtOnce);
        for (const id of ids) await this.#tell(id, { type: 'destroy', atMs: clock.now() });
        if (ids.length === reapedAtOnce) continue;
      } catch (error) {
        this.#log.error({ err: error }, 'expired jobs could not be looked for');
      }
      await clock.sleep(config.reaperIntervalMs, this.#closing.signal).catch(() => undefined);
    }
  }

  #spawn(work: Promise<unknown>): void {
    const watched = work
      .catch((error: unknown) => this.#log.error({ err: error }, 'work in the background failed'))
      .finally(() => this.#background.delete(watched));
    this.#background.add(watched);
  }
}

function shown(job: Job): Job {
  return { ...job, description: withoutCredentials(withoutInlineData(job.description)) };
}

/** What can be said of a job before its turn comes, if its description is valid. */
function summarise(description: RawDescription): Pick<Job, 'name' | 'jobType' | 'tags'> {
  try {
    const parsed = parseDescription(description);
    return { name: jobName(parsed), jobType: parsed['Job type'], tags: jobTags(parsed) };
  } catch {
    return { name: 'N/A', jobType: 'n/a', tags: [] }; // its preparation will say why
  }
}

function lostEvent(targetId: string, reason: string, clock: Clock): JobEvent {
  return { type: 'lost', atMs: clock.now(), reason: new TargetLost(targetId, reason).message };
}
