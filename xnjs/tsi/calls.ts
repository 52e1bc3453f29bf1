import type { Command } from '#tsi/protocol/message.js';
import * as commands from '#tsi/protocol/commands.js';
import type { ScriptHeader } from '../idb/script-header.js';
import type { CallOptions, TsiIdentity } from './tsi.js';
import { workerLost, type WorkerPool } from './worker-pool.js';
import type { Worker } from './worker.js';

export type CallsOptions = {
  readonly callMs: number;
  readonly executeMs: number;
  readonly interpreter: string;
  readonly scriptHeader: () => ScriptHeader;
};

/** How a command gets to a worker of the pool, and when it is sent once more. */
export class Calls {
  readonly #pool: WorkerPool;
  readonly #options: CallsOptions;

  constructor(pool: WorkerPool, options: CallsOptions) {
    this.#pool = pool;
    this.#options = options;
  }

  /** A command that may be repeated. */
  ask<T>(
    command: Command<T>,
    value: T,
    identity: TsiIdentity,
    options?: CallOptions,
  ): Promise<string> {
    const call = this.caller(command, value, identity);
    return this.repeat(options, call);
  }

  /** A script has a deadline of its own. Never sent again: nobody knows what it does. */
  execute(identity: TsiIdentity, script: string, options?: CallOptions): Promise<string> {
    const call = this.caller(commands.executeScript, { script }, identity);
    return this.#pool.use(this.#options.executeMs, options?.signal, call);
  }

  /** A command that may be repeated only to a TSI that knows it again. */
  once(
    options: CallOptions | undefined,
    call: (worker: Worker) => Promise<string>,
    harmlessTo: (worker: Worker) => boolean,
  ): Promise<string> {
    let harmless = true;
    return this.#again(
      () =>
        this.use(options, (worker) => {
          harmless = harmlessTo(worker);
          return call(worker);
        }),
      () => harmless,
    );
  }

  caller<T>(
    command: Command<T>,
    value: T,
    identity: TsiIdentity,
  ): (worker: Worker) => Promise<string> {
    const header = this.#options.scriptHeader();
    const lines = command.name === commands.executeScript.name ? header.execute : header.submit;
    const interpreter = lines?.replace(/^#!/, '') ?? this.#options.interpreter;
    return (worker) => {
      const guardScript = !worker.can('ordered-header');
      const message = command.encode(value, identity, { interpreter, guardScript });
      return worker.call(message, command.bare);
    };
  }

  /** What may be done twice. */
  repeat<T>(options: CallOptions | undefined, work: (worker: Worker) => Promise<T>): Promise<T> {
    return this.#again(() => this.use(options, work));
  }

  /** What is done once, or not at all. */
  use<T>(options: CallOptions | undefined, work: (worker: Worker) => Promise<T>): Promise<T> {
    return this.#pool.use(this.#options.callMs, options?.signal, work);
  }

  /** Once more, on another worker, when the first was lost. */
  async #again<T>(call: () => Promise<T>, harmless: () => boolean = () => true): Promise<T> {
    try {
      return await call();
    } catch (error) {
      if (!workerLost(error) || !harmless()) throw error;
      return call();
    }
  }
}
