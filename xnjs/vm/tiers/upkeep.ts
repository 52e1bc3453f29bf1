import type { Clock } from '#kernel/clock.js';
import type { Log } from '#kernel/log.js';

export type UpkeepOptions = {
  /** What is to be done, again and again. It may fail: there is a next turn. */
  readonly turn: () => Promise<void>;
  /** Whether a machine of a user is being started at present. */
  readonly isBusy: () => boolean;
  readonly clock: Clock;
  readonly log: Log;
  readonly stopping: AbortSignal;
};

const turnMs = 1_000;
/** After users have started something: they may start more. */
const settleMs = 2_000;
/** What nothing came of is left alone for so long. */
const unfitMs = 600_000;

/** The turns in which machines are made on what users leave, one at a time. */
export class Upkeep implements AsyncDisposable {
  readonly #options: UpkeepOptions;
  readonly #unfit = new Map<string, number>();
  #usedMs = -Infinity;
  #running: Promise<void> = Promise.resolve();

  constructor(options: UpkeepOptions) {
    this.#options = options;
  }

  start(): void {
    this.#running = this.#run();
  }

  get isStopping(): boolean {
    return this.#options.stopping.aborted;
  }

  /** Whether what is made now would be in a user's way. */
  get isCrowded(): boolean {
    const { isBusy, clock } = this.#options;
    return isBusy() || clock.now() - this.#usedMs < settleMs;
  }

  /** A user's machine is about to be started. */
  yield(): void {
    this.#usedMs = this.#options.clock.now();
  }

  isUnfit(id: string): boolean {
    return (this.#unfit.get(id) ?? 0) > this.#options.clock.now();
  }

  leaveAlone(id: string): void {
    this.#unfit.set(id, this.#options.clock.now() + unfitMs);
  }

  /** Resolves when the last turn has ended; whoever owns this has called it off. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#running;
  }

  async #run(): Promise<void> {
    const { turn, clock, log, stopping } = this.#options;
    while (!this.isStopping) {
      await turn().catch((error: unknown) => {
        if (!this.isStopping) log.warn({ err: error }, 'a turn could not be finished');
      });
      await clock.sleep(turnMs, stopping).catch(() => undefined);
    }
  }
}
