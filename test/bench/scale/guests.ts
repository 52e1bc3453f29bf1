import { fork, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { nodeFlags, program } from '../../program.js';
import type { Guests } from './libvirtd.js';

/** A process of agents may have as many files open as one server. */
const perProcess = 2_500;

export type Order = {
  readonly n: number;
  readonly start?: string;
  readonly stop?: string;
  readonly socket?: string;
};
export type Done = { readonly n: number };

/**
 * The agents of guests that there are not: their own code, one server of it for each machine on a socket of its
 * own, in some processes for all.
 */
export class AgentProcesses implements Guests, AsyncDisposable {
  readonly #directory: string;
  readonly #processes: ChildProcess[] = [];
  readonly #homes = new Map<string, ChildProcess>();
  readonly #waiting = new Map<number, () => void>();
  #last = 0;

  constructor(directory: string) {
    this.#directory = directory;
  }

  async start(id: string, socket: string): Promise<void> {
    const home = this.#processes[Math.floor(this.#homes.size / perProcess)] ?? this.#open();
    this.#homes.set(id, home);
    await this.#order(home, { start: id, socket });
  }

  async stop(id: string): Promise<void> {
    const home = this.#homes.get(id);
    if (home) await this.#order(home, { stop: id });
  }

  /** Of the processes. */
  get pids(): number[] {
    return this.#processes.flatMap(({ pid }) => pid ?? []);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(
      this.#processes.map(async (child) => {
        const end = once(child, 'exit');
        child.kill('SIGKILL');
        await end;
      }),
    );
  }

  #open(): ChildProcess {
    const child = fork(program('test/bench/scale/guests-process.ts'), [this.#directory], {
      execArgv: [...nodeFlags],
    });
    child.on('message', ({ n }: Done) => {
      this.#waiting.get(n)?.();
      this.#waiting.delete(n);
    });
    this.#processes.push(child);
    return child;
  }

  async #order(home: ChildProcess, order: Omit<Order, 'n'>): Promise<void> {
    const n = ++this.#last;
    await new Promise<void>((resolve) => {
      this.#waiting.set(n, resolve);
      home.send({ n, ...order } satisfies Order);
    });
  }
}
