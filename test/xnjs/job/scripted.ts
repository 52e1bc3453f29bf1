import { Readable } from 'node:stream';
import type { Scope } from '#kernel/scope.js';
import { JobConfig } from '#xnjs/job/config.js';
import type { JobEngineOptions } from '#xnjs/job/engine-options.js';
import { createJobStore } from '#xnjs/persistence/job-store.js';
import type { BssEntry, LoginNodeRun, Submission, Tsi } from '#xnjs/tsi/tsi.js';
import { LocalTargets, newEngine, openStore, ownerDn, scratch, targetId, until } from './rig.js';

/** What no test here asks for. */
const others = {} as Tsi; // the calls that are made are below

/** A TSI that does what the test says, for moments that no real one can be held in. */
export class ScriptedTsi {
  readonly submissions: Submission[] = [];
  readonly scripts: string[] = [];
  readonly aborted: string[] = [];
  readonly held: string[] = [];
  readonly resumed: string[] = [];
  readonly launches: LoginNodeRun[] = [];
  readonly killed: string[] = [];
  /** The pids that live on the login node. */
  readonly living = new Set<number>();
  /** What files of the jobs hold, by the end of their paths; `undefined`: not there. */
  readonly files = new Map<string, string | undefined>();
  exitCode: string | undefined = '0\n';
  listed = new Map<string, BssEntry>();
  onSubmit: (submission: Submission) => Promise<string> = (submission) =>
    Promise.resolve(`bss-${submission.attemptId}`);
  onStatus: () => Promise<ReadonlyMap<string, BssEntry>> = () => Promise.resolve(this.listed);

  onLaunch: (run: LoginNodeRun) => Promise<string> = () => Promise.resolve(this.alive());
  onHold: () => Promise<void> = () => Promise.resolve();
  onResume: () => Promise<void> = () => Promise.resolve();

  /** A new process of the login node. */
  alive(): string {
    const pid = 1_000 + this.launches.length;
    this.living.add(pid);
    return String(pid);
  }

  #content(path: string): string | undefined {
    for (const [end, content] of this.files) if (path.endsWith(end)) return content;
    return path.endsWith('UNICORE_SCRIPT_EXIT_CODE') ? this.exitCode : undefined;
  }

  readonly tsi: Tsi = {
    ...others,
    ping: () => Promise.resolve('11'),
    execute: (_, script) => Promise.resolve(String(this.scripts.push(script))),
    list: (_, path) => {
      const content = this.#content(path);
      const facts = { isDirectory: false, modifiedMs: 0, permissions: 'rw-------' };
      const owner = { owner: 'x', group: 'x', ownedByCaller: true };
      return Promise.resolve(
        content === undefined ? [] : [{ path, sizeBytes: content.length, ...facts, ...owner }],
      );
    },
    read: (_, path) => Readable.from([Buffer.from(this.#content(path) ?? '')]),
    write: () => Promise.resolve(0),
    space: () => Promise.reject(new Error('not scripted')),
    submit: (_, submission) => {
      this.submissions.push(submission);
      return this.onSubmit(submission);
    },
    status: () => this.onStatus(),
    abort: (_, id) => {
      this.aborted.push(id);
      this.listed.delete(id);
      return Promise.resolve();
    },
    details: () => Promise.resolve('{}'),
    hold: (_, id) => {
      this.held.push(id);
      return this.onHold();
    },
    resume: (_, id) => {
      this.resumed.push(id);
      return this.onResume();
    },
    runOnLoginNode: (_, run) => {
      this.launches.push(run);
      return this.onLaunch(run);
    },
    processes: () => Promise.resolve(new Set(this.living)),
    killOnLoginNode: (_, pid) => {
      this.killed.push(pid);
      this.living.delete(Number(pid));
      return Promise.resolve();
    },
  };
}

export const config = JobConfig.parse({
  statusIntervalMs: 20,
  retryFirstMs: 10,
  retryMaxMs: 50,
  refusedDelayMs: 5,
});

export async function start(
  scope: Scope,
  script: ScriptedTsi,
  directory = scratch(scope),
  options: Partial<JobEngineOptions> = {},
) {
  const targets = new LocalTargets(() => script.tsi, '/jobs');
  const store = createJobStore(await openStore(scope, directory));
  const engine = scope.use(newEngine({ store, targets, config, ...options }));
  await engine.attach();
  const submit = async (description: object = { Executable: 'x' }) =>
    (await engine.submit({ ownerDn, targetId, description: { ...description } })).id;
  const reaches = (id: string, state: string) =>
    until(`${id} ${state}`, async () => (await engine.get(id)).state === state);
  return { engine, store, targets, directory, submit, reaches };
}

export function held(): { promise: Promise<void>; release: () => void } {
  let release!: () => void;
  const promise = new Promise<void>((resolve) => (release = resolve));
  return { promise, release };
}
