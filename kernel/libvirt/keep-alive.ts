export type KeepAliveOptions = {
  /** Silence after which we ask; also the time the daemon has for its answer. */
  readonly intervalMs: number;
  /** How many questions in a row may stay without any byte from the daemon. */
  readonly count: number;
};

/** Notices a daemon that is connected but does not live: any byte is a sign of life. */
export class KeepAlive {
  readonly #timer: NodeJS.Timeout;
  #unanswered = 0;
  #heard = true;

  constructor({ intervalMs, count }: KeepAliveOptions, ping: () => void, dead: () => void) {
    this.#timer = setInterval(() => {
      if (this.#heard) this.#unanswered = 0;
      this.#heard = false;
      if (this.#unanswered++ < count) ping();
      else dead();
    }, intervalMs);
  }

  heard(): void {
    this.#heard = true;
  }

  stop(): void {
    clearInterval(this.#timer);
  }
}
