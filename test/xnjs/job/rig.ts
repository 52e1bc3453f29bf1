import assert from 'node:assert/strict';
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { readFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { tmpdir, userInfo } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { IdbApplication } from '#imagerepo/contract.js';
import { systemClock } from '#kernel/clock.js';
import { GridError } from '#kernel/errors.js';
import { silentLog } from '#kernel/log.js';
import { openDatabase, type Database } from '#kernel/persistence/database.js';
import { migrate } from '#kernel/persistence/migrate.js';
import type { Scope } from '#kernel/scope.js';
import type { IdbSource } from '#xnjs/idb/idb-source.js';
import type { ScriptHeader } from '#xnjs/idb/script-header.js';
import { JobConfig } from '#xnjs/job/config.js';
import { JobEngine } from '#xnjs/job/engine.js';
import type { JobEngineOptions } from '#xnjs/job/engine-options.js';
import type { Job } from '#xnjs/job/job.js';
import { createNoticeSender } from '#xnjs/job/notice-sender.js';
import type { JobStore } from '#xnjs/job/store.js';
import { jobMigrations } from '#xnjs/persistence/job-models.js';
import { createJobStore } from '#xnjs/persistence/job-store.js';
import { transferMigrations } from '#xnjs/persistence/transfer-store.js';
import type { Target, TargetEvent, Targets } from '#xnjs/target.js';
import { AgentLink } from '#xnjs/tsi/agent-link.js';
import { createTsi } from '#xnjs/tsi/tsi-client.js';
import type { Tsi, TsiIdentity } from '#xnjs/tsi/tsi.js';
import { nodeFlags, program } from '../../program.js';
import { stagingOf } from '../staging/wiring.js';

export const ownerDn = 'CN=Tester "T" $HOME `id`,O=Grid';
export const targetId = '11111111-1111-4111-8111-111111111111';
/** As root the agent runs nothing as root. */
export const identity: TsiIdentity = {
  login: process.geteuid?.() === 0 ? 'nobody' : userInfo().username,
  groups: 'NONE',
};

/** A directory that the jobs' account may use, removed with the scope. */
export function scratch(scope: Scope): string {
  const directory = mkdtempSync(join(tmpdir(), 'vsite-job-'));
  chmodSync(directory, 0o755);
  scope.defer(() => rmSync(directory, { recursive: true, force: true, maxRetries: 5 }));
  mkdirSync(join(directory, 'jobs'));
  chmodSync(join(directory, 'jobs'), 0o1777);
  return directory;
}

/** Waits for a condition, never for a time. */
export async function until(what: string, met: () => unknown, deadlineMs = 20_000): Promise<void> {
  const end = Date.now() + deadlineMs;
  while (!(await met())) {
    assert.ok(Date.now() < end, `waited too long: ${what}`);
    await sleep(10);
  }
}

/** The real agent as a process of its own, listening on a unix socket. */
export class Agent {
  readonly socket: string;
  readonly #directory: string;
  #process: ChildProcess | undefined;

  constructor(directory: string) {
    this.#directory = directory;
    this.socket = join(directory, 'agent.sock');
    const properties = [`tsi.link = unix:${this.socket}`, `tsi.state_dir = ${directory}/agent`];
    writeFileSync(join(directory, 'tsi.properties'), properties.join('\n'));
  }

  async start(): Promise<void> {
    const properties = join(this.#directory, 'tsi.properties');
    this.#process = spawn(
      process.execPath,
      [...nodeFlags, program('tsi/agent/main.ts'), properties],
      { stdio: ['ignore', 'ignore', 'inherit'] },
    );
    await until('agent listens', () => existsSync(this.socket));
  }

  /** As a crash would. */
  async kill(): Promise<void> {
    if (this.#process?.exitCode !== null || this.#process.signalCode !== null) return;
    this.#process.kill('SIGKILL');
    await once(this.#process, 'exit');
    rmSync(this.socket, { force: true });
  }
}

/** Target systems whose machine is this one. */
export class LocalTargets implements Targets {
  readonly #listeners = new Set<(event: TargetEvent) => void>();
  readonly #target: Target;

  constructor(
    tsi: () => Tsi,
    jobsDirectory: string,
    applications: IdbApplication[] = [],
    idb?: IdbSource,
    onExit?: Target['onExit'],
  ) {
    const limits = { cpus: 4, memoryBytes: 2 * 1024 ** 3 };
    const target = { id: targetId, ownerDn, identity, jobsDirectory, applications, limits, tsi };
    this.#target = {
      ...target,
      ...(idb && { idb: idb.bind(target) }),
      ...(onExit && { onExit }),
    };
  }

  find(id: string): Target | undefined {
    return id === targetId ? this.#target : undefined;
  }

  subscribe(listener: (event: TargetEvent) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  emit(event: TargetEvent): void {
    for (const listener of this.#listeners) listener(event);
  }
}

type LinkOptions = {
  readonly dialsMany?: boolean;
  readonly scriptHeader?: () => ScriptHeader;
};

/** A TSI client to an agent's socket; not up yet when this returns. */
export function linkTo(
  scope: Scope,
  socket: string,
  { dialsMany = false, scriptHeader = () => ({}) }: LinkOptions = {},
): { link: AgentLink; tsi: () => Tsi } {
  const link = scope.use(
    new AgentLink({
      name: 'test',
      dialsMany,
      heartbeatMs: 1_000,
      clock: systemClock,
      log: silentLog,
      dial: async () => {
        const stream = connect(socket);
        await once(stream, 'connect');
        return stream;
      },
    }),
  );
  const client = scope.use(
    createTsi(link.transport(), { log: silentLog, clock: systemClock, scriptHeader }),
  );
  const tsi = (): Tsi => {
    if (link.state === 'up') return client;
    throw new GridError('TSI_UNAVAILABLE', 'the link is down');
  };
  return { link, tsi };
}

export async function openStore(scope: Scope, directory: string): Promise<Database> {
  const url = `sqlite:${join(directory, 'jobs.sqlite')}`;
  const database = scope.use(await openDatabase({ url, log: silentLog }));
  await migrate(database, 'jobs', [...jobMigrations, ...transferMigrations], silentLog);
  return database;
}

/** An engine that does nothing yet; what a test does not give is real. */
export function newEngine(
  options: Pick<JobEngineOptions, 'store' | 'targets' | 'config'> & Partial<JobEngineOptions>,
): JobEngine {
  return new JobEngine({
    staging: { stage: () => Promise.resolve({ log: [] }) }, // for jobs that bring no files along
    notices: createNoticeSender(options.config.notifications),
    clock: systemClock,
    log: silentLog,
    ...options,
  });
}

/** An engine on some TSI. */
export type EngineRig = {
  readonly engine: JobEngine;
  readonly targets: LocalTargets;
  readonly directory: string;
  readonly submit: (description: Record<string, unknown>) => Promise<string>;
  /** The job, once it is over. */
  readonly finished: (id: string, deadlineMs?: number) => Promise<Job>;
  readonly output: (id: string, name?: string) => string;
  /** Files on the target, by absolute path. */
  readonly exists: (path: string) => Promise<boolean>;
  readonly read: (path: string) => Promise<string>;
  readonly jobsDirectory: string;
  readonly targetId: string;
  readonly ownerDn: string;
};

export type Rig = EngineRig & { readonly link: AgentLink; readonly agent: Agent };

export type RigOptions = {
  applications?: IdbApplication[];
  config?: Partial<JobConfig>;
  /** Puts something between the engine and its store. */
  around?: (store: JobStore) => JobStore;
  /** Workers have connections of their own, as in a container. */
  dialsMany?: boolean;
  idb?: IdbSource;
  /** What the agent tells of the ends of jobs. */
  onExit?: Target['onExit'];
};

/** Engine, SQLite, TSI client and agent: everything real. */
export async function startRig(scope: Scope, options: RigOptions = {}): Promise<Rig> {
  const directory = scratch(scope);
  const agent = new Agent(directory);
  scope.defer(() => agent.kill());
  await agent.start();
  return { agent, ...(await startEngine(scope, directory, agent.socket, options)) };
}

/** Engine and SQLite of a directory, on an agent that listens there. */
export async function startEngine(
  scope: Scope,
  directory: string,
  socket: string,
  options: RigOptions = {},
): Promise<Omit<Rig, 'agent'>> {
  const { idb, dialsMany = false } = options;
  const scriptHeader = (): ScriptHeader => idb?.scriptHeader ?? {};
  const { link, tsi } = linkTo(scope, socket, { dialsMany, scriptHeader });
  await until('link is up', () => link.state === 'up');
  const onExit: Target['onExit'] = (listener) => link.onExit(listener);
  const rig = await startEngineOn(scope, directory, tsi, { ...options, onExit });
  link.onChange((state) => {
    if (state === 'up') rig.targets.emit({ type: 'ready', targetId });
  });
  return { link, ...rig };
}

/** Engine and SQLite of a directory, on whatever TSI. */
export async function startEngineOn(
  scope: Scope,
  directory: string,
  tsi: () => Tsi,
  { applications, config, idb, around = (store) => store, onExit }: RigOptions = {},
): Promise<EngineRig> {
  const targets = new LocalTargets(tsi, join(directory, 'jobs'), applications, idb, onExit);
  const database = await openStore(scope, directory);
  const engine = scope.use(
    newEngine({
      store: around(createJobStore(database)),
      targets,
      staging: stagingOf(scope, directory, { targets, database }),
      config: JobConfig.parse({ ...config }),
    }),
  );
  await engine.attach();
  return {
    engine,
    targets,
    directory,
    submit: async (description) => (await engine.submit({ ownerDn, targetId, description })).id,
    finished: (id, deadlineMs) => over(engine, id, deadlineMs),
    output: (id, name = 'stdout') => readFileSync(join(directory, 'jobs', id, name), 'utf8'),
    exists: (path) => Promise.resolve(existsSync(path)),
    read: (path) => readFile(path, 'utf8'),
    jobsDirectory: join(directory, 'jobs'),
    ...{ targetId, ownerDn },
  };
}

async function over(engine: JobEngine, id: string, deadlineMs?: number): Promise<Job> {
  await until(`job ${id}`, async () => (await engine.get(id)).state === 'DONE', deadlineMs);
  return await engine.get(id);
}
