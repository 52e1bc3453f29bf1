import { GridError } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import { linkSignals } from '#kernel/net/deadline.js';
import type { FileSpace } from '../files/file-space.js';
import type { TargetEvent } from '../target.js';
import { inAllocation } from './allocation.js';
import { mayHaveChildren } from './children.js';
import { reapJobs, replaceJobs, type ReplacedMachine } from './ends.js';
import type { JobEngineOptions } from './engine-options.js';
import { JobError } from './errors.js';
import type { Job } from './job.js';
import { newJob, type NewJob } from './new-job.js';
import { JobParts } from './parts.js';
import type { JobFilter, JobPage, JobUsage } from './store.js';
import type { OrderType } from './transitions.js';
import { lostEvent, shown } from './views.js';
import { putOffJobs, type Parked } from './put-off.js';
import { endReverted, tidyReverted, type RevertedMachine } from './reverted.js';
import { withResolvers } from './with-resolvers.js';

const startPage = 500;
/** A batch system that has not answered by then will do so later. */
const orderMs = 10_000;

/**
 * Runs jobs. Each is changed by `step` alone; state and effects land in one transaction before anything
 * is done about them, and what was not done when the server died is done by the next `attach`.
 */
export class JobEngine implements AsyncDisposable {
  readonly #options: JobEngineOptions;
  readonly #log: Log;
  readonly #parts: JobParts;
  readonly #closing = new AbortController();
  readonly #unsubscribe: () => void;
  #attached = false;

  /** Listens to the target systems from here on; nothing is done before `attach`. */
  constructor(options: JobEngineOptions) {
    this.#options = options;
    this.#log = options.log.child({ part: 'xnjs.job' });
    this.#parts = new JobParts({ ...options, log: this.#log, closing: this.#closing.signal });
    this.#unsubscribe = options.targets.subscribe((event) => this.#onTarget(event));
  }

  /**
   * Goes on with every job that is not over. The target systems must be known by now.
   *
   * What is read here comes not by way of the store's one queue of changes, so nothing may change a job that
   * is still to be read: those that change others, and news of lost target systems, wait until all are.
   */
  async attach(): Promise<void> {
    const { store } = this.#options;
    const { load, background, ends } = this.#parts;
    let unfinished = 0;
    let afterId = '';
    const last: Job[] = [];
    for (;;) {
      const page = await store.unfinished({ afterId, num: startPage });
      for (const job of page) {
        load.changed(undefined, job);
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
    this.#parts.loseJobs();
    if (unfinished > 0) this.#log.info({ jobs: unfinished }, 'unfinished jobs taken up again');
    void background.run(reapJobs(ends));
  }

  /**
   * Stores the job and returns; all that can be wrong with its description becomes its result.
   * @throws `NOT_FOUND` no such target system, `JOB_LIMIT` or `SITE_UNAVAILABLE` too many jobs, or none
   * are taken at present
   */
  async submit(wish: NewJob): Promise<Job> {
    const { store, targets, clock, config } = this.#options;
    const { load } = this.#parts;
    const { ownerDn, targetId } = wish;
    this.#closing.signal.throwIfAborted();
    this.#options.submission?.check();
    if (!targets.find(targetId))
      throw new JobError('NOT_FOUND', `there is no target system ${targetId}`, { vmId: targetId });
    const { job, size } = newJob(wish, clock.now(), config);
    load.reserve(ownerDn, size);
    try {
      await store.insert(job);
    } finally {
      // it counts itself as it begins, its children when they are made
      load.release(ownerDn, size);
    }
    this.#log.debug({ jobId: job.id, dn: ownerDn, vmId: targetId }, 'job submitted');
    this.#options.onSubmitted?.();
    this.#parts.begin(job);
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

  /** How many jobs {@link list} would find on a target system. */
  async countOn(targetId: string): Promise<number> {
    return await this.#options.store.count(targetId);
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
    this.#parts.changes.announce(job);
    const { terminationMs } = change;
    if (job.plan?.sweep !== undefined && terminationMs !== undefined)
      for (const child of await store.children(id))
        await store.change(child.id, (before) => ({ ...before, terminationMs }));
    return shown(job);
  }

  /** The job's directory. @throws `NOT_FOUND` its target system is gone, and the files with it */
  files(job: Job): FileSpace {
    return this.#parts.files(job);
  }

  /** What the batch system says of a job. */
  async details(id: string): Promise<string> {
    const { targetId, run, plan } = await this.get(id);
    if (run.bssId === undefined || plan?.onLoginNode) return 'N/A';
    const target = this.#parts.target(targetId);
    return await target.tsi().details(target.identity, run.bssId);
  }

  /** Called with each new version of a job, after it has been stored. @returns ends it */
  onChange(listener: (job: Job) => void): () => void {
    return this.#parts.changes.onChange(listener);
  }

  /** Calls to target systems. */
  get calls(): { readonly active: number; readonly waiting: number } {
    return this.#parts.calls;
  }

  /** Lets go of every job; they run on, and `attach` finds them again. */
  async close(): Promise<void> {
    this.#unsubscribe();
    this.#closing.abort(new GridError('SITE_UNAVAILABLE', 'the job engine is closing'));
    await this.#parts[Symbol.asyncDispose]();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #takeUp(job: Job): void {
    const { targets, clock } = this.#options;
    const { notifier, performances, background, changes } = this.#parts;
    notifier.take(job);
    if (targets.find(job.targetId)) performances.advance(job);
    else {
      const event = lostEvent(job.targetId, 'it no longer exists', clock);
      void background.run(changes.tell(job.id, event));
    }
  }

  /**
   * Ends the jobs that had begun on a machine that is proven gone, while its target system lives on in another.
   * Those that may be run again (`Restartable`) are, once. May be repeated. After `attach`.
   */
  async machineReplaced(lost: ReplacedMachine): Promise<void> {
    const { changes, ends } = this.#parts;
    await replaceJobs(ends, lost, async (id, run) => {
      await changes.apply(id, { type: 'restart', run, atMs: this.#options.clock.now() });
    });
  }

  /** Ends the jobs that a machine will know otherwise than we do. May be repeated. After `attach`. */
  async machineReverted(machine: RevertedMachine): Promise<void> {
    await endReverted(this.#parts.ends, machine);
  }

  /** Then, when it answers: ends what runs there and should not. May be repeated. @throws `TSI_UNAVAILABLE` */
  async tidyReverted(machine: RevertedMachine): Promise<void> {
    await tidyReverted(this.#parts.ends, machine);
  }

  /** Life times of its jobs do not count the times that a target system was parked. May be repeated. */
  async putOff(targetId: string, times: readonly Parked[]): Promise<void> {
    await putOffJobs(this.#parts.ends, targetId, times);
  }

  async #order(id: string, type: OrderType): Promise<Job> {
    await this.get(id);
    return await this.#parts.changes.apply(id, { type, atMs: this.#options.clock.now() });
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

  #onTarget(event: TargetEvent): void {
    if (event.type === 'ready') this.#parts.targetReady(event.targetId);
    else if (event.type === 'replaced') this.#parts.targetReplaced(event.targetId);
    else {
      this.#parts.targetLost(event.targetId, event.reason);
      if (this.#attached) this.#parts.loseJobs(event.targetId);
    }
  }
}
