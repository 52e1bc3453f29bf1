import type { IncomingMessage, RequestListener, ServerResponse } from 'node:http';
import { Bag } from '#kernel/bag.js';

/**
 * A service for a gateway in the same process: it is given the client's own requests, their headers rewritten, and
 * answers the client itself. Nothing is parsed or copied twice.
 */
export class LocalService {
  readonly #handler: RequestListener;
  readonly #drainTimeoutMs: number;
  readonly #answers = new Bag<ServerResponse>();
  #closed = false;
  #idle: (() => void) | undefined;

  constructor(handler: RequestListener, drainTimeoutMs: number) {
    this.#handler = handler;
    this.#drainTimeoutMs = drainTimeoutMs;
  }

  get isOpen(): boolean {
    return !this.#closed;
  }

  handle(request: IncomingMessage, response: ServerResponse): void {
    this.#answers.add(response);
    response.on('close', () => {
      this.#answers.delete(response);
      if (this.#answers.size === 0) this.#idle?.();
    });
    this.#handler(request, response);
  }

  /** Takes nothing new; requests under way may finish. */
  async close(): Promise<void> {
    this.#closed = true;
    if (this.#answers.size === 0) return;
    const timer = setTimeout(() => {
      for (const response of this.#answers) response.destroy();
    }, this.#drainTimeoutMs);
    await new Promise<void>((resolve) => (this.#idle = resolve));
    clearTimeout(timer);
  }
}
