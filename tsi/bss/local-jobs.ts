import { randomInt } from 'node:crypto';
import { closeSync } from 'node:fs';
import { availableParallelism, uptime } from 'node:os';
import { errorText } from '#kernel/errors.js';
import { TsiError } from '../protocol/error.js';
import type { Host, Owner } from './bss.js';
import { JobRecords, type JobRecord, type JobRun } from './job-records.js';
import { jobCommand, prepareFiles, type LocalRequest } from './job-shell.js';
import { findProcess, type Process } from './processes.js';
import { endSession, graceSeconds, type Session } from './session.js';

/** How often jobs of an agent before us are looked at, which no one tells us the end of. */
const adoptedMs = 250;
const deadlinesMs = 2_000;
const pruneMs = 3_600_000;

type Running = Process & { readonly adopted: boolean };
export type LocalJob = { readonly record: JobRecord; readonly process: Process | undefined };

/**
 * Jobs as sessions of this system's processes, on record so that they outlive the agent, are started at
 * most once for each attempt, and are found again.
 */
export class LocalJobs {
  readonly #host: Host;
  readonly #records: JobRecords;
  readonly #jobs = new Map<string, JobRecord>();
  /** Jobs that run: our children until we are told of their end, and those of an agent before us. */
  readonly #running = new Map<string, Running>();
  readonly #attempts = new Map<string, Promise<string>>();
  readonly #listeners = new Set<(id: string) => void>();
  #timer: NodeJS.Timeout | undefined;
  #prunedMs = Date.now();

  constructor(host: Host, dir: string) {
    this.#host = host;
    this.#records = new JobRecords(dir);
    for (const record of this.#records.load(Date.now())) this.#remember(record);
    this.#watch();
  }

  #remember(record: JobRecord): void {
    this.#jobs.set(record.id, record);
    const process = this.#records.process(record);
    if (process) this.#running.set(record.id, { ...process, adopted: true });
    if (record.attemptId !== undefined && this.#records.run(record.id))
      this.#attempts.set(attemptKey(record.uid, record.attemptId), Promise.resolve(record.id));
  }

  /** Called with the id of each job that has ended. @returns ends it */
  onExit(listener: (id: string) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** @returns the id; that of the first where the attempt is known */
  async start(owner: Owner, job: LocalRequest): Promise<string> {
    if (job.attemptId === undefined) return this.#start(owner, job);
    const key = attemptKey(owner.uid, job.attemptId);
    const known = this.#attempts.get(key);
    if (known) return known;
    const started = this.#start(owner, job);
    this.#attempts.set(key, started);
    started.catch(() => this.#attempts.delete(key));
    return started;
  }

  async #start(owner: Owner, job: LocalRequest): Promise<string> {
    const record = this.#unstarted(owner, job) ?? this.#create(owner, job);
    const { id } = record;
    const open: number[] = [];
    try {
      open.push(...this.#host.as(owner, () => prepareFiles(job, id)));
      open.push(this.#records.openRun(id));
      const [file, ...args] = jobCommand(job, id, membersAtOnce(job));
      const stdio = ['ignore', ...open] as const;
      const options = { cwd: job.uspaceDir, stdio: [...stdio] };
      const child = this.#host.spawn(owner, file, args, options);
      const process = child.pid === undefined ? undefined : findProcess(child.pid);
      if (process) this.#running.set(id, { ...process, adopted: false });
      child.once('exit', () => this.#ended(record));
      child.unref();
      await new Promise((done, failed) => child.once('spawn', done).once('error', failed));
      this.#watch();
    } catch (error) {
      this.#running.delete(id);
      this.#forget(record);
      throw new TsiError('TSI_FAILED', errorText(error), { jobId: id }, { cause: error });
    } finally {
      open.forEach((fd) => closeSync(fd));
    }
    return id;
  }

  #create(owner: Owner, job: LocalRequest): JobRecord {
    this.#prune();
    const now = Date.now();
    const rounds = Math.ceil((job.arraySize ?? 1) / membersAtOnce(job));
    const record = this.#records.create({
      id: String(randomInt(100_000_000_000, 281_474_976_710_655)),
      uid: owner.uid,
      login: owner.login,
      ...(job.attemptId !== undefined && { attemptId: job.attemptId }),
      ...(job.jobName !== undefined && { jobName: job.jobName }),
      ...(job.queue !== undefined && { queue: job.queue }),
      // `timeout` keeps the limit, also while there is no agent; this is for what escapes it
      ...(job.wallTime && {
        endsByUptimeMs: uptimeMs() + (job.wallTime * rounds + 2 * graceSeconds) * 1_000,
      }),
      uspaceDir: job.uspaceDir,
      createdMs: now,
    });
    this.#jobs.set(record.id, record);
    return record;
  }

  /** A job that was written down by an agent that died before it started. */
  #unstarted({ uid }: Owner, { attemptId }: LocalRequest): JobRecord | undefined {
    if (attemptId === undefined) return undefined;
    for (const record of this.#jobs.values())
      if (record.uid === uid && record.attemptId === attemptId) return record;
    return undefined;
  }

  /** Of all owners. */
  *running(): Generator<LocalJob> {
    for (const [id, { pid, startTicks, adopted }] of this.#running) {
      const record = this.#jobs.get(id);
      const process = findProcess(pid);
      const lives = process?.startTicks === startTicks && process.state !== 'Z';
      if (adopted && !lives) this.#running.delete(id);
      if (record && adopted && !lives) this.#ended(record);
      else if (record) yield { record, process: lives ? process : undefined };
    }
  }

  /** @throws `TSI_FAILED` for who is not the owner */
  find(owner: Owner, id: string): JobRecord {
    const record = this.#jobs.get(id);
    if (record?.uid === owner.uid) return record;
    throw new TsiError('TSI_FAILED', `no job ${id} of ${owner.login}`);
  }

  /** The newest: numbers of processes come again. @throws `TSI_FAILED` for who is not the owner */
  findByPid(owner: Owner, pid: number): JobRecord {
    for (const record of [...this.#jobs.values()].reverse())
      if (record.uid === owner.uid && this.run(record.id)?.pid === pid) return record;
    throw new TsiError('TSI_FAILED', `no process ${pid} of ${owner.login} was started here`);
  }

  isRunning(id: string): boolean {
    return this.#running.has(id);
  }

  /** What is known of its shell. A job that was started this moment has not yet noted it itself. */
  run(id: string): JobRun | undefined {
    return this.#records.run(id) ?? this.#running.get(id);
  }

  /** Its processes, where the number of the session can still mean them. */
  session(record: JobRecord): Session | undefined {
    const run = this.#running.get(record.id) ?? this.#records.session(record);
    return run && { pid: run.pid, startTicks: run.startTicks, uid: record.uid };
  }

  #ended(record: JobRecord): void {
    const session = this.session(record);
    this.#running.delete(record.id);
    const limit = record.endsByUptimeMs;
    const ranOut = limit !== undefined && uptimeMs() > limit - 2 * graceSeconds * 1_000;
    if (ranOut && session) void this.#end(session);
    for (const listener of this.#listeners) listener(record.id);
  }

  /** What does not even take SIGKILL hangs in the kernel: it is left to it. */
  async #end(session: Session): Promise<void> {
    await endSession(session).catch(() => undefined);
  }

  /** Looks at jobs that nobody tells us about, as long as there are any. */
  #watch(): void {
    if (this.#timer || this.#running.size === 0) return;
    const adopted = [...this.#running.values()].some((job) => job.adopted);
    this.#timer = setTimeout(
      () => {
        this.#timer = undefined;
        for (const { record, process } of this.running()) {
          const session = this.session(record);
          const { endsByUptimeMs: limit } = record;
          const late = limit !== undefined && uptimeMs() > limit;
          if (late && process && session) void this.#end(session);
        }
        this.#watch();
      },
      adopted ? adoptedMs : deadlinesMs,
    ).unref();
  }

  #prune(): void {
    const now = Date.now();
    if (now - this.#prunedMs < pruneMs) return;
    this.#prunedMs = now;
    for (const record of this.#jobs.values())
      if (!this.#running.has(record.id) && this.#records.isOld(record, now)) this.#forget(record);
  }

  #forget(record: JobRecord): void {
    this.#jobs.delete(record.id);
    this.#records.remove(record.id);
    if (record.attemptId !== undefined)
      this.#attempts.delete(attemptKey(record.uid, record.attemptId));
  }
}

/** Of a job array: as many as were asked for, else as the machine has processors. */
function membersAtOnce({ arrayLimit }: LocalRequest): number {
  return Math.max(1, arrayLimit ?? availableParallelism());
}

function uptimeMs(): number {
  return uptime() * 1_000;
}

function attemptKey(uid: number, attemptId: string): string {
  return `${uid} ${attemptId}`;
}
