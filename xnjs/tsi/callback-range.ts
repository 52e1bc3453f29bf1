import type { Socket } from 'node:net';
import { GridError, errorText } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import { orAborted } from '#kernel/net/deadline.js';
import { CallbackListener, type CallbackPorts, type Handshake } from './callback-transport.js';

export type CallbackRangeOptions = {
  readonly host: string | undefined;
  readonly firstPort: number;
  readonly lastPort: number;
  readonly log: Log;
};

/**
 * Ports that TSIs call back, opened when they are needed: one serves a handshake of each host at a time, and each
 * handshake takes a second or more with a TSI that takes its time.
 */
export class CallbackRange implements CallbackPorts, AsyncDisposable {
  readonly #options: CallbackRangeOptions;
  readonly #listeners: CallbackListener[] = [];
  #nextPort: number;
  #opening: Promise<void> | undefined;
  #failure = 'the range is empty';
  #closed = false;

  constructor(options: CallbackRangeOptions) {
    this.#options = options;
    this.#nextPort = options.firstPort;
  }

  /** On the listener with least to do for its host. @throws `TSI_UNAVAILABLE` when no port can be opened */
  async handshake(handshake: Handshake, signal: AbortSignal): Promise<Socket[]> {
    for (;;) {
      const waiting = (listener: CallbackListener): number => listener.handshakesOf(handshake.host);
      const [best] = this.#listeners.toSorted((a, b) => waiting(a) - waiting(b));
      const allOpen = this.#nextPort > this.#options.lastPort;
      if (best && (waiting(best) === 0 || allOpen)) return await best.handshake(handshake, signal);
      this.#opening ??= this.#openNext().finally(() => (this.#opening = undefined));
      await orAborted(this.#opening, signal);
      if (this.#listeners.length === 0 || this.#closed)
        throw new GridError('TSI_UNAVAILABLE', `no port for call-backs: ${this.#failure}`);
    }
  }

  async #openNext(): Promise<void> {
    const { host, firstPort, lastPort, log } = this.#options;
    while (!this.#closed && this.#nextPort <= lastPort) {
      const port = this.#nextPort;
      this.#nextPort += 1;
      try {
        const where = { port, log, ...(host !== undefined && { host }) };
        this.#listeners.push(await CallbackListener.open(where));
        return;
      } catch (error) {
        this.#failure = errorText(error);
        log.warn({ err: error }, 'a port for call-backs could not be opened');
      }
    }
    // what another program had, or an address that was missing, may be there at the next call
    if (this.#listeners.length === 0) this.#nextPort = firstPort;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true;
    await this.#opening;
    await Promise.all(this.#listeners.map((listener) => listener[Symbol.asyncDispose]()));
  }
}
