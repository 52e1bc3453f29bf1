import { randomInt } from 'node:crypto';
import { closeSync, constants, fstatSync, mkdirSync, openSync, writeFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { errorText } from '#kernel/errors.js';
import { TsiError } from '../protocol/error.js';
import type { Budget, Partition } from '../protocol/information.js';
import type { BssEntry } from '../protocol/status.js';
import type { Bss, Host, JobRequest, Owner } from './bss.js';
import { JobRecords, type JobRecord } from './job-records.js';
import { findProcess, ownerOf, processes, type Process } from './processes.js';

/**
 * The job's own shell: notes that it runs, runs the job, notes the exit code. A signal to the session
 * ends the job, and the shell after it. `$0` shows the job's name in process lists, as stock TSIs do.
 */
const shell = `umask "$1"; shift; stop=
IFS= read -r line </proc/$$/stat; printf '%s\\n' "$line" >&3
trap stop=143 TERM INT HUP
if [ -z "$stop" ]; then "$@" 3>&-; else (exit "$stop"); fi
printf 'exit %s\\n' "$?" >&3`;

const termGraceSeconds = 5;
const pollMs = 50;
/** A shell's child may lose a signal between fork and exec, and its parent to the same: told once more. */
const repeatRound = 6;

type Running = Process & { readonly adopted: boolean };

/** No batch system: each job is a session of processes in this system's process table. */
export class NoBatch implements Bss {
  readonly #host: Host;
  readonly #records: JobRecords;
  readonly #jobs = new Map<string, JobRecord>();
  /** Jobs that run: our children until we are told of their end, and those of an agent before us. */
  readonly #running = new Map<string, Running>();
  readonly #attempts = new Map<string, Promise<string>>();

  constructor(host: Host, stateDir: string) {
    this.#host = host;
    this.#records = new JobRecords(resolve(stateDir, 'jobs'));
    for (const record of this.#records.load(Date.now())) this.#remember(record);
  }

  #remember(record: JobRecord): void {
    this.#jobs.set(record.id, record);
    const process = this.#records.process(record);
    if (process) this.#running.set(record.id, { ...process, adopted: true });
    if (record.attemptId !== undefined && this.#records.run(record.id))
      this.#attempts.set(attemptKey(record.uid, record.attemptId), Promise.resolve(record.id));
  }

  async submit(owner: Owner, job: JobRequest): Promise<string> {
    if (job.attemptId === undefined) return this.#start(owner, job);
    const key = attemptKey(owner.uid, job.attemptId);
    const known = this.#attempts.get(key);
    if (known) return known;
    const started = this.#start(owner, job);
    this.#attempts.set(key, started);
    started.catch(() => this.#attempts.delete(key));
    return started;
  }

  async #start(owner: Owner, job: JobRequest): Promise<string> {
    const record = this.#unstarted(owner, job) ?? this.#create(owner, job);
    const { id } = record;
    const open: number[] = [];
    try {
      const umask = umaskOf(job);
      open.push(...this.#host.as(owner, () => prepare(job, id, umask)));
      open.push(this.#records.openRun(id));
      const limit = job.wallTime ? ['timeout', `-k${termGraceSeconds}`, `${job.wallTime}`] : [];
      const child = this.#host.spawn(
        owner,
        '/bin/sh',
        ['-c', shell, jobFile(id), umask.toString(8), ...limit, `./${jobFile(id)}`],
        { cwd: job.uspaceDir, stdio: ['ignore', ...open] },
      );
      const process = child.pid === undefined ? undefined : findProcess(child.pid);
      if (process) this.#running.set(id, { ...process, adopted: false });
      child.once('exit', () => this.#running.delete(id));
      child.unref();
      await new Promise((done, failed) => child.once('spawn', done).once('error', failed));
    } catch (error) {
      this.#running.delete(id);
      this.#jobs.delete(id);
      this.#records.remove(id);
      throw new TsiError('TSI_FAILED', errorText(error), { jobId: id }, { cause: error });
    } finally {
      open.forEach((fd) => closeSync(fd));
    }
    return id;
  }

  #create(owner: Owner, job: JobRequest): JobRecord {
    const record = this.#records.create({
      id: String(randomInt(100_000_000_000, 281_474_976_710_655)),
      uid: owner.uid,
      login: owner.login,
      ...(job.attemptId !== undefined && { attemptId: job.attemptId }),
      ...(job.jobName !== undefined && { jobName: job.jobName }),
      ...(job.queue !== undefined && { queue: job.queue }),
      uspaceDir: job.uspaceDir,
      createdMs: Date.now(),
    });
    this.#jobs.set(record.id, record);
    return record;
  }

  /** A job that was written down by an agent that died before it started. */
  #unstarted({ uid }: Owner, { attemptId }: JobRequest): JobRecord | undefined {
    if (attemptId === undefined) return undefined;
    for (const record of this.#jobs.values())
      if (record.uid === uid && record.attemptId === attemptId) return record;
    return undefined;
  }

  status(): Promise<Iterable<readonly [string, BssEntry]>> {
    return Promise.resolve([...this.#entries()]);
  }

  *#entries(): Generator<readonly [string, BssEntry]> {
    for (const [id, { pid, startTicks, adopted }] of this.#running) {
      const process = findProcess(pid);
      const lives = process?.startTicks === startTicks && process.state !== 'Z';
      if (adopted && !lives) {
        this.#running.delete(id);
        continue;
      }
      const rawState = lives ? process.state : 'R';
      const state = rawState === 'T' ? 'SUSPENDED' : 'RUNNING';
      yield [id, { state, queue: 'NOBATCH', rawState }];
    }
  }

  async abort(owner: Owner, id: string): Promise<void> {
    const record = this.#find(owner, id);
    // a job that was started this moment has not yet noted its session
    const run = this.#running.get(id) ?? this.#records.session(record);
    if (!run) return;
    const told = new Set<number>();
    const rounds = (termGraceSeconds * 1_000) / pollMs;
    for (let round = 0; round < 2 * rounds; round += 1) {
      const living = processes().filter(
        ({ session, startTicks, pid }) =>
          session === run.pid && startTicks >= run.startTicks && ownerOf(pid) === owner.uid,
      );
      if (living.length === 0) return;
      const pids = new Set(living.map(({ pid }) => pid));
      for (const { pid, parent } of living) {
        // once, and to no helper of a handler; but to what was started while we looked
        const orphan = !pids.has(parent);
        const due = round === 0 || parent === run.pid || orphan;
        if (round >= rounds) kill(pid, 'SIGKILL');
        else if (due && (!told.has(pid) || (orphan && round === repeatRound))) kill(pid, 'SIGTERM');
        if (due) told.add(pid);
      }
      await sleep(pollMs);
    }
    throw new TsiError('TSI_FAILED', `processes of job ${id} do not end`);
  }

  details(owner: Owner, id: string): Promise<string> {
    return new Promise((resolve) => resolve(this.#describe(owner, id)));
  }

  #describe(owner: Owner, id: string): string {
    const record = this.#find(owner, id);
    const run = this.#records.run(id);
    const state = this.#running.has(id) ? 'RUNNING' : 'COMPLETED';
    return JSON.stringify({
      JobId: id,
      JobName: record.jobName,
      UserName: record.login,
      JobState: state,
      Pid: run?.pid,
      WorkDir: record.uspaceDir,
      StartTime: new Date(record.createdMs).toISOString(),
      ...(run?.exitCode !== undefined && { ExitCode: run.exitCode }),
      ...(run?.endedMs !== undefined && { EndTime: new Date(run.endedMs).toISOString() }),
    });
  }

  hold(owner: Owner, id: string): Promise<void> {
    return this.#signal(owner, id, 'SIGSTOP', (state) => state === 'T' || state === 't');
  }

  resume(owner: Owner, id: string): Promise<void> {
    return this.#signal(owner, id, 'SIGCONT', (state) => state !== 'T');
  }

  /** Until all are as wanted: a process may start another while we look. */
  async #signal(
    owner: Owner,
    id: string,
    signal: NodeJS.Signals,
    settled: (state: string) => boolean,
  ): Promise<void> {
    const record = this.#find(owner, id);
    const run = this.#running.get(id) ?? this.#records.session(record);
    for (let round = 0; run && round < (termGraceSeconds * 1_000) / pollMs; round += 1) {
      const other = this.#session(owner, run).filter(({ state }) => !settled(state));
      if (other.length === 0) return;
      for (const { pid } of other) kill(pid, signal);
      await sleep(pollMs);
    }
    if (run) throw new TsiError('TSI_FAILED', `processes of job ${id} do not take ${signal}`);
  }

  #session({ uid }: Owner, run: { readonly pid: number; readonly startTicks: number }): Process[] {
    return processes().filter(
      ({ session, startTicks, pid }) =>
        session === run.pid && startTicks >= run.startTicks && ownerOf(pid) === uid,
    );
  }

  /** This machine is all there is: one partition would only name it. */
  partitions(): Promise<Readonly<Record<string, Partition>>> {
    return Promise.resolve({});
  }

  budget(): Promise<readonly Budget[]> {
    return Promise.resolve([]);
  }

  #find(owner: Owner, id: string): JobRecord {
    const record = this.#jobs.get(id);
    if (record?.uid === owner.uid) return record;
    throw new TsiError('TSI_FAILED', `no job ${id} of ${owner.login}`);
  }
}

/** As the owner: the job's file and output. @returns descriptors of stdout and stderr */
function prepare(job: JobRequest, id: string, umask: number): number[] {
  const before = process.umask(umask);
  try {
    mkdirSync(job.outcomeDir, { recursive: true });
    process.umask(0o077);
    const text = job.text.startsWith('#!') ? job.text : `#!/bin/bash\n${job.text}`;
    const script = openFile(resolve(job.uspaceDir, jobFile(id)), 0o700);
    writeFileSync(script, text);
    closeSync(script);
    process.umask(umask);
    return [job.stdout, job.stderr].map((name) => openFile(resolve(job.outcomeDir, name), 0o666));
  } finally {
    process.umask(before);
  }
}

function openFile(path: string, mode: number): number {
  const { O_WRONLY, O_CREAT, O_TRUNC, O_NONBLOCK } = constants;
  const fd = openSync(path, O_WRONLY | O_CREAT | O_TRUNC | O_NONBLOCK, mode);
  if (fstatSync(fd).isFile()) return fd;
  closeSync(fd);
  throw new TsiError('TSI_FAILED', `${path} is not a regular file`);
}

/** `#TSI_UMASK` or `umask` as the script's first line (§4.4); else nobody but the owner may read. */
function umaskOf({ script }: JobRequest): number {
  const first = /^(?:#TSI_UMASK|umask) ([0-7]{1,4})(?:\r?\n|$)/.exec(script)?.[1];
  return first === undefined ? 0o077 : Number.parseInt(first, 8) & 0o777;
}

function kill(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch {
    // it has ended meanwhile, or is not ours to end; the caller looks again
  }
}

function jobFile(id: string): string {
  return `UNICORE_Job_${id}`;
}

function attemptKey(uid: number, attemptId: string): string {
  return `${uid} ${attemptId}`;
}
