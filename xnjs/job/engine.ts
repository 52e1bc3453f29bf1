import type { Clock } from '#kernel/clock.js';
import { errorText, GridError } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import { linkSignals } from '#kernel/net/deadline.js';
import type { FileSpace } from '../files/file-space.js';
import type { Staging } from '../staging/staging.js';
import type { Target, TargetEvent, Targets } from '../target.js';
import { inAllocation } from './allocation.js';
import { Children, mayHaveChildren } from './children.js';
import type { JobConfig } from './config.js';
import { loseJobs, reapJobs, type EndsOptions } from './ends.js';
import { JobError } from './errors.js';
import type { JobSubmission } from './job-submission.js';
import type { JobEvent } from './events.js';
import type { Job } from './job.js';
import { Lanes } from './lanes.js';
import { note } from './learn.js';
import { listedNews } from './listed.js';
import { isOver, Load } from './load.js';
import { newJob, type NewJob } from './new-job.js';
import type { NoticeSender } from './notice-sender.js';
import { withNotices } from './notices.js';
import { Notifier } from './notifier.js';
import { matchesPattern } from './pattern.js';
import { Performances } from './performances.js';
import { ProgressReader } from './progress.js';
import { step } from './state.js';
import type { Effect, OrderType } from './transitions.js';
import type { JobFilter, JobPage, JobStore, JobUsage } from './store.js';
import { lostEvent, shown, withProgress } from './views.js';
import { Watcher } from './watcher.js';
import { withResolvers } from './with-resolvers.js';
import { JobWork, TargetLost } from './work.js';

export type JobEngineOptions = {
  readonly store: JobStore;
  readonly targets: Targets;
  readonly staging: Staging;
  /** Absent: jobs are always taken. */
  readonly submission?: Pick<JobSubmission, 'check'>;
  /** The engine closes it. */
  readonly notices: NoticeSender;
  readonly clock: Clock;
  readonly log: Log;
  readonly config: JobConfig;
};

const startPage = 500;
const storeRetryMs = 1_000;
/** A batch system that has not answered by then will do so later. */
const orderMs = 10_000;

/**
 * Runs jobs. Each is changed by `step` alone; state and effects land in one transaction before anything
 * is done about them, and what was not done when the server died is done by the next `attach`.
 */
export class JobEngine implements AsyncDisposable {
  readonly #options: JobEngineOptions;
  readonly #log: Log;
  readonly #lanes: Lanes;
  readonly #watcher: Watcher;
  readonly #progress: ProgressReader;
  readonly #stagingLanes: Lanes;
  readonly #work: JobWork;
  readonly #load: Load;
  readonly #children: Children;
  readonly #notifier: Notifier;
  readonly #performances: Performances;
  /** Why targets are gone that are still known. */
  readonly #lost = new Map<string, string>();
  readonly #listeners = new Set<(job: Job) => void>();
  readonly #background = new Set<Promise<unknown>>();
  readonly #closing = new AbortController();
  readonly #unsubscribe: () => void;
  #attached = false;

  /** Listens to the target systems from here on; nothing is done before `attach`. */
  constructor(options: JobEngineOptions) {
    const { targets, clock, config } = options;
    this.#options = options;
    this.#log = options.log.child({ part: 'xnjs.job' });
    this.#load = new Load(config);
    const onTrouble = (vmId: string, error: GridError): void =>
      this.#log.warn(
        { vmId, err: errorText(error) },
        'target system does not answer, its jobs wait',
      );
    this.#lanes = new Lanes({ clock, ...config, onTrouble });
    this.#stagingLanes = new Lanes({
      clock,
      ...config,
      callsPerTarget: config.stagingsPerTarget,
      callsTotal: config.stagingsTotal,
    });
    this.#children = new Children({
      ...options,
      sweepLimit: config.sweepLimit,
      adopt: (child) => {
        this.#load.changed(undefined, child);
        this.#announce(child);
        this.#performances.advance(child);
      },
      order: async (id, type) => await this.#tell(id, { type, atMs: clock.now() }),
    });
    this.#notifier = new Notifier({
      sender: options.notices,
      clock,
      log: this.#log,
      config: config.notifications,
      done: async (id, noticeId, text) =>
        await this.#amend(id, (job) => {
          const notices = (job.notices ?? []).filter((notice) => notice.id !== noticeId);
          return note({ ...job, notices }, clock.now(), text);
        }),
    });
    this.#watcher = new Watcher({
      targets,
      clock,
      log: this.#log,
      intervalMs: config.statusIntervalMs,
      maxIntervalMs: config.statusMaxIntervalMs,
      onEntry: async (jobId, run, entry) => {
        const news = listedNews(entry);
        if (!news) return;
        await this.#spawn(this.#tell(jobId, { ...news, run, atMs: clock.now() }));
      },
    });
    this.#progress = new ProgressReader({
      ...{ targets, clock, log: this.#log, intervalMs: config.progressIntervalMs },
      onProgress: async (id, run, progress) => {
        await this.#amend(id, (job) => withProgress(job, run, progress));
      },
    });
    this.#work = new JobWork({
      target: (id) => this.#target(id),
      lanes: this.#lanes,
      stagingLanes: this.#stagingLanes,
      watcher: this.#watcher,
      staging: options.staging,
      children: this.#children,
      remark: async ({ id }, text) => {
        await this.#amend(id, (job) => note(job, clock.now(), text));
      },
      settle: (job, node) => this.#settle(job, node),
      clock,
      log: this.#log,
      config,
      closing: this.#closing.signal,
    });
    this.#performances = new Performances({
      work: this.#work,
      watcher: this.#watcher,
      progress: this.#progress,
      tell: (id, event) => this.#tell(id, event),
      closing: this.#closing.signal,
    });
    this.#unsubscribe = targets.subscribe((event) => this.#onTarget(event));
  }

  /**
   * Goes on with every job that is not over. The target systems must be known by now.
   *
   * What is read here comes not by way of the store's one queue of changes, so nothing may change a job that
   * is still to be read: those that change others, and news of lost target systems, wait until all are.
   */
  async attach(): Promise<void> {
    const { store } = this.#options;
    let unfinished = 0;
    let afterId = '';
    const last: Job[] = [];
    for (;;) {
      const page = await store.unfinished({ afterId, num: startPage });
      for (const job of page) {
        this.#load.changed(undefined, job);
        if (mayHaveChildren(job)) last.push(job);
        else this.#takeUp(job);
      }
      unfinished += page.length;
      const end = page.at(-1);
      if (!end) break;
      afterId = end.id;
    }
    for (const job of last) this.#takeUp(job);
    this.#attached = true;
    for (const [targetId, reason] of this.#lost)
      void this.#spawn(loseJobs(this.#ends(), targetId, reason));
    if (unfinished > 0) this.#log.info({ jobs: unfinished }, 'unfinished jobs taken up again');
    void this.#spawn(reapJobs(this.#ends()));
  }

  /**
   * Stores the job and returns; all that can be wrong with its description becomes its result.
   * @throws `NOT_FOUND` no such target system, `JOB_LIMIT` or `SITE_UNAVAILABLE` too many jobs, or none
   * are taken at present
   */
  async submit(wish: NewJob): Promise<Job> {
    const { store, targets, clock, config } = this.#options;
    const { ownerDn, targetId } = wish;
    this.#closing.signal.throwIfAborted();
    this.#options.submission?.check();
    if (!targets.find(targetId))
      throw new JobError('NOT_FOUND', `there is no target system ${targetId}`, { vmId: targetId });
    const { job, size } = newJob(wish, clock.now(), config);
    this.#load.reserve(ownerDn, size);
    try {
      await store.insert(job);
    } catch (error) {
      this.#load.release(ownerDn, size);
      throw error;
    }
    // its children count themselves when they are made
    this.#load.release(ownerDn, size - 1);
    this.#log.debug({ jobId: job.id, dn: ownerDn, vmId: targetId }, 'job submitted');
    this.#announce(job);
    this.#performances.advance(job);
    return shown(job);
  }

  /**
   * Submits a job that runs in an allocation.
   * @throws `CONFLICT` the job is no allocation, or has not got what it asked for; as `submit`
   */
  async submitInto(allocationId: string, wish: Omit<NewJob, 'targetId'>): Promise<Job> {
    const allocation = await this.get(allocationId);
    const description = inAllocation(allocation, wish.description);
    return await this.submit({ ...wish, targetId: allocation.targetId, description });
  }

  /** Without inline data and credentials. @throws {@link JobError} `JOB_UNKNOWN`, also while it is being destroyed */
  async get(id: string): Promise<Job> {
    const job = await this.#options.store.find(id);
    if (job && job.state !== 'DESTROYING') return shown(job);
    throw new JobError('JOB_UNKNOWN', `there is no job ${id}`, { jobId: id });
  }

  /** The latest end of life that a job may be given. */
  get latestTerminationMs(): number {
    const { clock, config } = this.#options;
    return clock.now() + (config.maxLifetimeSeconds ?? Number.POSITIVE_INFINITY) * 1_000;
  }

  /** Newest first. */
  async list({
    offset,
    num,
    ...filter
  }: JobFilter & { offset: number; num: number }): Promise<JobPage> {
    return await this.#options.store.list(filter, { offset, num });
  }

  /** How many jobs each user has, and how many of them are not over; without children of sweeps. */
  async usage(): Promise<JobUsage[]> {
    return await this.#options.store.usage();
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

  /**
   * Holds a job in the batch system. Resolves when that has answered, or is slow to.
   * @throws `JOB_ILLEGAL_EVENT` there is nothing to hold, `CONFLICT` the batch system refuses
   */
  async pause(id: string): Promise<void> {
    await this.#orderAndSee(id, 'pause', 'PAUSING');
  }

  /** Lets a paused job go on; else as `pause`. */
  async resume(id: string): Promise<void> {
    await this.#orderAndSee(id, 'resume', 'RESUMING');
  }

  /** Accepts the removal: aborts, removes the directory, then the record. */
  async destroy(id: string): Promise<void> {
    await this.#order(id, 'destroy');
  }

  /** What is the owner's to change at any time. */
  async update(
    id: string,
    change: { tags?: readonly string[]; acl?: readonly string[]; terminationMs?: number },
  ): Promise<Job> {
    await this.get(id);
    const { store } = this.#options;
    const job = await store.change(id, (before) => ({ ...before, ...change }));
    this.#announce(job);
    const { terminationMs } = change;
    if (job.plan?.sweep !== undefined && terminationMs !== undefined)
      for (const child of await store.children(id))
        await store.change(child.id, (before) => ({ ...before, terminationMs }));
    return shown(job);
  }

  /** The job's directory. @throws `NOT_FOUND` its target system is gone, and the files with it */
  files(job: Job): FileSpace {
    return this.#work.files(job, this.#target(job.targetId));
  }

  /** What the batch system says of a job. */
  async details(id: string): Promise<string> {
    const { targetId, run, plan } = await this.get(id);
    if (run.bssId === undefined || plan?.onLoginNode) return 'N/A';
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
    this.#stagingLanes[Symbol.dispose]();
    this.#watcher[Symbol.dispose]();
    this.#progress[Symbol.dispose]();
    await this.#performances.settled();
    await Promise.allSettled(this.#background);
    await this.#notifier[Symbol.asyncDispose]();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #takeUp(job: Job): void {
    const { targets, clock } = this.#options;
    this.#notifier.take(job);
    if (targets.find(job.targetId)) this.#performances.advance(job);
    else void this.#spawn(this.#tell(job.id, lostEvent(job.targetId, 'it no longer exists', clock)));
  }

  async #order(id: string, type: OrderType): Promise<Job> {
    await this.get(id);
    return await this.#apply(id, { type, atMs: this.#options.clock.now() });
  }

  /** Orders something that may be refused, and waits for a while until the job has left `busy`. */
  async #orderAndSee(id: string, type: 'pause' | 'resume', busy: Job['state']): Promise<void> {
    let latest: Job | undefined;
    const { promise: left, resolve } = withResolvers<undefined>();
    const ignore = this.onChange((job) => {
      if (job.id !== id) return;
      latest = job;
      if (job.state !== busy) resolve(undefined);
    });
    const waiting = new AbortController();
    using until = linkSignals(waiting.signal, this.#closing.signal);
    try {
      const ordered = await this.#order(id, type);
      latest ??= ordered;
      if (latest.state !== busy) return;
      const late = this.#options.clock.sleep(orderMs, until.signal).catch(() => undefined);
      await Promise.race([left, late]);
    } finally {
      ignore();
      waiting.abort();
    }
    const { refusal } = latest.run;
    if (refusal !== undefined) throw new JobError('CONFLICT', refusal, { jobId: id });
  }

  async #apply(id: string, event: JobEvent): Promise<Job> {
    let before: Job | undefined;
    let entered: readonly Effect[] = [];
    const after = await this.#options.store.change(id, (job) => {
      before = job;
      const next = step(job, event);
      entered = next.effects;
      return withNotices(job, next.job, matchesPattern);
    });
    if (after === before || before === undefined) return after;
    // Nothing is awaited from here on: the store answers in the order in which it stored, and what follows a
    // change must not be overtaken by what follows a later one of the same job.
    if (entered.some((effect) => effect.do === 'submit' || effect.do === 'launch'))
      this.#work.attemptStored(after);
    if (after.state !== before.state)
      this.#log.debug({ jobId: id, from: before.state, to: after.state }, 'job changed');
    this.#load.changed(before, after);
    if (isOver(after)) this.#children.changed(after);
    if (after.state === 'DESTROYED' && after.plan?.sweep !== undefined)
      void this.#spawn(this.#orphan(after));
    this.#announce(after);
    this.#notifier.take(after);
    this.#performances.advance(after);
    return after;
  }

  /** What is no step of the job's life. @returns nothing if there is no such job any more */
  async #amend(id: string, change: (job: Job) => Job): Promise<Job | undefined> {
    try {
      const job = await this.#options.store.change(id, change);
      this.#announce(job);
      return job;
    } catch (error) {
      if (error instanceof JobError && error.code === 'JOB_UNKNOWN') return undefined;
      throw error;
    }
  }

  /** Nothing is started before this is stored, and a full disk fails no job. */
  async #settle({ id, run }: Job, node: string): Promise<string> {
    const change = (now: Job): Job =>
      now.run.number !== run.number || now.run.node !== undefined
        ? now
        : { ...now, run: { ...now.run, node } };
    for (;;) {
      try {
        return (await this.#amend(id, change))?.run.node ?? node;
      } catch (error) {
        this.#log.error(
          { jobId: id, err: error },
          'a login node could not be stored, trying again',
        );
        await this.#options.clock.sleep(storeRetryMs, this.#closing.signal);
      }
    }
  }

  /** A sweep that went with its target system leaves records of children. */
  async #orphan({ id, targetId }: Job): Promise<void> {
    const { store, clock } = this.#options;
    for (const child of await store.children(id)) {
      await this.#tell(child.id, { type: 'destroy', atMs: clock.now() });
      if (!this.#options.targets.find(targetId))
        await this.#tell(child.id, lostEvent(targetId, 'it no longer exists', clock));
    }
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
      this.#stagingLanes.resume(event.targetId);
    } else {
      this.#lost.set(event.targetId, event.reason);
      if (this.#attached)
        void this.#spawn(loseJobs(this.#ends(), event.targetId, event.reason));
    }
  }

  #ends(): EndsOptions {
    const tell = (id: string, event: JobEvent): Promise<void> => this.#tell(id, event);
    return { ...this.#options, log: this.#log, tell, closing: this.#closing.signal };
  }

  /** Waited for when the engine closes. */
  #spawn(work: Promise<unknown>): Promise<unknown> {
    const watched = work
      .catch((error: unknown) => this.#log.error({ err: error }, 'work in the background failed'))
      .finally(() => this.#background.delete(watched));
    this.#background.add(watched);
    return watched;
  }
}
