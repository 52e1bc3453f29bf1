import assert from 'node:assert/strict';
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Scope } from '#kernel/scope.js';
import { jobStatus, type JobEngine, type RawDescription } from '#xnjs/index.js';
import { nodeFlags, program } from '../program.js';
import { until } from '../xnjs/job/rig.js';
import { startEngineAt } from './engine-at.js';
import type { Point } from './gate.js';
import type { News, Order } from './server.js';

/** The states of a job in which a fault is tried, and how a job gets there. */
export const states = [
  'CREATED',
  'PREPROCESSING',
  'READY',
  'PRECOMMAND',
  'PENDING',
  'QUEUED',
  'RUNNING',
  'PAUSED',
  'POSTPROCESSING',
  'POSTCOMMAND',
  'STAGINGOUT',
  'DONE',
  'ABORTING',
  'DESTROYING',
] as const;
export type FaultState = (typeof states)[number];

/** The engine's process. */
export class Server {
  readonly #child: ChildProcess;
  readonly #news: News[] = [];
  readonly #directory: string;
  readonly #held: FaultState[] = [];
  /** Of the jobs in the order in which they were submitted. */
  readonly #passed: FaultState[] = [];
  #toDestroy = 0;
  /** Resolves when the process has ended, however. */
  readonly exited: Promise<unknown>;

  private constructor(directory: string, child: ChildProcess) {
    this.#directory = directory;
    this.#child = child;
    this.exited = once(child, 'exit');
    child.on('message', (news: News) => this.#news.push(news));
  }

  /** @param deadly points at which it kills itself, for jobs that it has taken itself */
  static async start(
    scope: Scope,
    directory: string,
    address: string,
    deadly: readonly Point[] = [],
  ): Promise<Server> {
    const child = spawn(
      process.execPath,
      [...nodeFlags, ...[program('test/faults/server.ts'), directory, address, deadly.join(',')]],
      { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] },
    );
    const server = new Server(directory, child);
    scope.defer(() => server.kill());
    await server.#hear('ready');
    return server;
  }

  /** Ids of the jobs that it has said to have taken. */
  get accepted(): string[] {
    return this.#news.flatMap((news) => (news.news === 'accepted' ? [news.id] : []));
  }

  /** Submits a job that passes through the state; with `hold`, it stops there until `release`. */
  async pass(state: FaultState, { hold = false } = {}): Promise<void> {
    const from = this.#news.length;
    this.#passed.push(state);
    if (state === 'DESTROYING') this.#toDestroy += 1;
    this.#tell({
      do: 'submit',
      description: trial(state, this.#directory, hold),
      ...(hold && { holdAt: state }),
    });
    const order = orders[state];
    if (order) {
      const id = await this.#hear('accepted', from);
      await until('the job runs', () => runsOf(this.#directory).includes(id), 100_000);
      this.#tell({ do: order, id });
    }
    if (!hold) return;
    this.#held.push(state);
    await this.#hear('held', from, state);
  }

  /** Lets all go on that are held. */
  release(): void {
    this.#tell({ do: 'release' });
    this.#letJobsEnd();
  }

  /** All that can be over are over, without help from outside. */
  async idle(): Promise<void> {
    const over = (): Set<string> =>
      new Set(this.#news.flatMap((news) => (news.news === 'done' ? [news.id] : [])));
    const waiting = (): string[] => this.accepted.filter((id) => !over().has(id));
    await until('its jobs are over', () => waiting().length <= this.#toDestroy, 100_000).catch(
      (error: unknown) => {
        const left = waiting().map((id) => this.#passed[this.accepted.indexOf(id)]);
        throw new Error(`of these they are not: ${left.join(', ')}`, { cause: error });
      },
    );
  }

  /** The server has noticed that its agent does not answer. */
  async linkDown(): Promise<void> {
    await this.#hear('link down');
  }

  /** The server has come to feel that its disk is full. */
  async diskFull(): Promise<void> {
    const felt = ({ news }: News): boolean => news === 'not stored' || news === 'done';
    await until('the server notices', () => this.#news.some(felt));
  }

  async kill(): Promise<void> {
    this.#child.kill('SIGKILL');
    await this.exited;
    this.#letJobsEnd();
  }

  #letJobsEnd(): void {
    for (const state of this.#held.splice(0)) writeFileSync(goFile(state, this.#directory), '');
  }

  #tell(order: Order): void {
    this.#child.send(order);
  }

  async #hear(wanted: News['news'], from = 0, of = ''): Promise<string> {
    const find = (): News | undefined => this.#news.slice(from).find(({ news }) => news === wanted);
    await until(`the server says ${wanted} ${of}`, find, 100_000);
    const news = find();
    return news && 'id' in news ? news.id : '';
  }
}

/** States that a job enters only when it is told to. */
const orders: Partial<Record<FaultState, 'abort' | 'destroy' | 'pause'>> = {
  PAUSED: 'pause',
  ABORTING: 'abort',
  DESTROYING: 'destroy',
};

/** How long a trial runs, in s: until it is ended, or long enough to be paused. */
const sleeps = { none: 0.5, pause: 3, abort: 600, destroy: 600 } as const;

/** In these states a job is only seen while it runs, which may be over before a busy host has looked. */
const seenWhileItRuns: ReadonlySet<FaultState> = new Set(['RUNNING', 'PAUSED']);

/** A job that writes down each time that it begins and ends. Its name says what is to become of it. */
function trial(state: FaultState, directory: string, hold: boolean): RawDescription {
  const wait =
    hold && seenWhileItRuns.has(state)
      ? `until [ -e ${goFile(state, directory)} ]; do sleep 0.1; done`
      : `sleep ${sleeps[orders[state] ?? 'none']}`;
  return {
    Name: state,
    Imports: [{ To: 'in.txt', Data: 'input' }],
    Exports: [{ From: 'end', To: `file:${directory}/jobs/${state}.out` }],
    'User precommand': 'echo . >> pre',
    'User postcommand': 'echo . >> post',
    haveClientStageIn: state === 'READY',
    Executable: `basename "$PWD" >> ${directory}/jobs/counts; cat in.txt; ${wait}; echo . >> end`,
  };
}

/** Lets a job end that waits to be seen. */
function goFile(state: FaultState, directory: string): string {
  return join(directory, 'jobs', `${state}.go`);
}

/** Job ids, one for each time that a job's script began. */
export function runsOf(directory: string): string[] {
  const file = join(directory, 'jobs', 'counts');
  return existsSync(file) ? readFileSync(file, 'utf8').split('\n').filter(Boolean) : [];
}

/** May a job have failed for this reason? Without one, it may not. */
export type Excuse = RegExp | undefined;

/**
 * Starts an engine on what is left and sees every job to its right end: none lost, none run twice.
 * @returns how many there were
 */
export async function settle(
  directory: string,
  address: string,
  accepted: readonly string[],
  excuse?: Excuse,
): Promise<number> {
  await using scope = new Scope();
  const { engine } = await startEngineAt(scope, directory, address);
  const { ids } = await engine.list({ offset: 0, num: 1_000 });
  for (const id of ids) await settleOne(engine, id, directory, excuse);
  // those that are being destroyed are not listed any more
  for (const id of accepted.filter((known) => !ids.includes(known)))
    await until('the directory of a destroyed job is gone', () => !hasDirectory(directory, id));
  const runs = runsOf(directory);
  assert.equal(runs.length, new Set(runs).size, 'a job ran twice');
  return new Set([...ids, ...accepted]).size;
}

async function settleOne(
  engine: JobEngine,
  id: string,
  directory: string,
  excuse: Excuse,
): Promise<void> {
  const { name } = await engine.get(id);
  if (name === 'DESTROYING') {
    // the order died with the server before it was accepted: it can be given again
    await engine.destroy(id);
    await until('the directory is gone', () => !hasDirectory(directory, id));
    return;
  }
  await until(
    `the job that was in ${name} is over`,
    async () => {
      const { state } = await engine.get(id);
      if (state === 'READY') await engine.start(id);
      if (state === 'PAUSED') await engine.resume(id).catch(() => undefined);
      if (name === 'ABORTING' && state === 'RUNNING') await engine.abort(id);
      return state === 'DONE';
    },
    30_000,
  );
  const job = await engine.get(id);
  const message = job.run.result?.message ?? '';
  if (name === 'ABORTING') assert.deepEqual([jobStatus(job), message], ['FAILED', 'Job aborted.']);
  else if (excuse && message === 'The job ended with exit code 1.')
    assert.notEqual(
      written(directory, id, 'end'),
      '.\n',
      'it has failed, and could write its last',
    );
  else if (!excuse?.test(message)) {
    assert.deepEqual([jobStatus(job), message], ['SUCCESSFUL', '']);
    assert.equal(written(directory, id, 'stdout'), 'input');
    for (const once of ['pre', 'end', 'post', `../${name}.out`])
      assert.equal(written(directory, id, once), '.\n', once);
  }
}

function written(directory: string, id: string, name: string): string | undefined {
  const file = join(directory, 'jobs', id, name);
  return existsSync(file) ? readFileSync(file, 'utf8') : undefined;
}

function hasDirectory(directory: string, id: string): boolean {
  return existsSync(join(directory, 'jobs', id));
}
