import type { Readable } from 'node:stream';
import { destroySoon } from '#kernel/net/destroy-soon.js';

/**
 * Messages of a stream, one at a time, by whatever `split` knows of framing. Reads ahead, so that the
 * end of the stream is seen at once (`onEnd`), but never far: a peer that sends on is made to wait.
 */
export class MessageSource<T> {
  readonly #stream: Readable;
  readonly #queue: T[] = [];
  #ended = false;
  #failure: Error | undefined;
  #wake: (() => void) | undefined;

  constructor(stream: Readable, split: (chunk: Buffer) => readonly T[], maxQueued = 16) {
    this.#stream = stream;
    stream.on('data', (chunk: Buffer) => {
      if (this.#ended) return;
      try {
        this.#queue.push(...split(chunk));
      } catch (error) {
        this.#end(error as Error);
        destroySoon(stream);
      }
      if (this.#queue.length > maxQueued) stream.pause();
      this.#wake?.();
    });
    stream.on('error', (error) => this.#end(error));
    stream.on('end', () => this.#end());
    stream.on('close', () => this.#end());
  }

  /** Called once, when nothing more can come. */
  onEnd: (() => void) | undefined;

  /** Messages that have arrived and that nobody has asked for. */
  get waiting(): number {
    return this.#queue.length;
  }

  /** @returns the next message; `undefined` at the end. @throws what ended the stream early */
  async next(): Promise<T | undefined> {
    for (;;) {
      const message = this.#queue.shift();
      if (message !== undefined) {
        if (this.#queue.length === 0 && this.#stream.isPaused()) this.#stream.resume();
        return message;
      }
      if (this.#failure) throw this.#failure;
      if (this.#ended) return undefined;
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
  }

  #end(failure?: Error): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#failure = failure;
    this.#wake?.();
    this.onEnd?.();
  }
}
