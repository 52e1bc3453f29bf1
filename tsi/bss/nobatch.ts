import { resolve } from 'node:path';
import type { Budget, Partition } from '../protocol/information.js';
import type { BssEntry } from '../protocol/status.js';
import type { Bss, Host, JobRequest, Owner } from './bss.js';
import { LocalJobs } from './local-jobs.js';
import { endSession, holdSession, resumeSession, type Session } from './session.js';

/** No batch system: each job is a session of processes in this system's process table. */
export class NoBatch implements Bss {
  readonly #jobs: LocalJobs;

  constructor(host: Host, stateDir: string) {
    this.#jobs = new LocalJobs(host, resolve(stateDir, 'jobs'));
  }

  /** The members of an array are one job to everybody outside. */
  submit(owner: Owner, job: JobRequest): Promise<string> {
    return this.#jobs.start(owner, job);
  }

  status(): Promise<Iterable<readonly [string, BssEntry]>> {
    return Promise.resolve([...this.#entries()]);
  }

  *#entries(): Generator<readonly [string, BssEntry]> {
    for (const { record, process } of this.#jobs.running()) {
      const rawState = process?.state ?? 'R';
      const state = rawState === 'T' ? 'SUSPENDED' : 'RUNNING';
      yield [record.id, { state, queue: 'NOBATCH', rawState }];
    }
  }

  abort(owner: Owner, id: string): Promise<void> {
    return this.#with(owner, id, endSession);
  }

  hold(owner: Owner, id: string): Promise<void> {
    return this.#with(owner, id, holdSession);
  }

  resume(owner: Owner, id: string): Promise<void> {
    return this.#with(owner, id, resumeSession);
  }

  /** A job that has ended is left as it is. */
  async #with(owner: Owner, id: string, act: (session: Session) => Promise<void>): Promise<void> {
    const session = this.#jobs.session(this.#jobs.find(owner, id));
    if (session) await act(session);
  }

  details(owner: Owner, id: string): Promise<string> {
    return new Promise((done) => done(this.#describe(owner, id)));
  }

  #describe(owner: Owner, id: string): string {
    const record = this.#jobs.find(owner, id);
    const run = this.#jobs.run(id);
    return JSON.stringify({
      JobId: id,
      JobName: record.jobName,
      UserName: record.login,
      JobState: this.#jobs.isRunning(id) ? 'RUNNING' : 'COMPLETED',
      Pid: run?.pid,
      WorkDir: record.uspaceDir,
      StartTime: new Date(record.createdMs).toISOString(),
      ...(run?.exitCode !== undefined && { ExitCode: run.exitCode }),
      ...(run?.endedMs !== undefined && { EndTime: new Date(run.endedMs).toISOString() }),
    });
  }

  /** This machine is all there is: one partition would only name it. */
  partitions(): Promise<Readonly<Record<string, Partition>>> {
    return Promise.resolve({});
  }

  budget(): Promise<readonly Budget[]> {
    return Promise.resolve([]);
  }

  onExit(listener: (id: string) => void): () => void {
    return this.#jobs.onExit(listener);
  }
}
