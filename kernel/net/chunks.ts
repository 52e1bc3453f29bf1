import { IncomingMessage } from 'node:http';
import type { Readable } from 'node:stream';
import { letGo } from './let-go.js';

/** `memory` is free again when `bytes` are needed no more. */
export type Gathered = { readonly bytes: Buffer; readonly memory: Buffer };

export type Memory = {
  take(size: number): Buffer;
};

const none = Buffer.alloc(0);
/** What a short file has room in. */
const smallBytes = 256 * 1024;
/** Full pieces that wait for whoever takes them, so that a moment of waiting at either end is none at the other. */
const mostWaiting = 2;
/** What is gathered in one turn of the event loop: others, such as the one who sends it on, are to have theirs. */
const turnBytes = 128 * 1024;

/**
 * Cuts a stream into pieces of exactly `size` bytes, the last one shorter; an empty stream is one empty piece. Gathers
 * ahead while a piece is being used.
 *
 * The bytes are copied: what a stream brings are thousands of small buffers, and to keep them until there are enough
 * costs more than to copy them and let them go. They come by events: an iterator costs a promise for each of them, and
 * joins them first.
 */
export class Chunks {
  readonly #source: Readable;
  readonly #size: number;
  readonly #memory: Memory;
  readonly #full: Gathered[] = [];
  #chunk: Buffer = none;
  #gathered = 0;
  #isEmpty = true;
  #inTurn = 0;
  #turn: NodeJS.Immediate | undefined;
  #isOver = false;
  #failure: Error | undefined;
  #wake: (() => void) | undefined;
  readonly #onData = (piece: Buffer | string): void => this.#take(piece);
  readonly #onEnd = (): void => this.#end();
  readonly #onError = (error: Error): void => this.#end(error);
  readonly #onClose = (): void => this.#end(new Error('the stream has ended early'));

  /** @param memory for full pieces */
  constructor(source: Readable, size: number, memory: Memory) {
    this.#source = source;
    this.#size = size;
    this.#memory = memory;
    // what is over by now tells nobody any more
    if (source.readableEnded) this.#end();
    else if (source.destroyed) this.#end(source.errored ?? new Error('the stream has been closed'));
    source.on('data', this.#onData).on('end', this.#onEnd);
    source.on('error', this.#onError).on('close', this.#onClose);
  }

  /** @returns `undefined` at the end. @throws what ended the stream early, after what was full by then */
  async next(): Promise<Gathered | undefined> {
    for (;;) {
      const next = this.takeReady();
      if (next) return next;
      if (this.#failure) throw this.#failure;
      if (this.#isOver) return undefined;
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
  }

  /** @returns the next one, if it is there */
  takeReady(): Gathered | undefined {
    const next = this.#full.shift();
    if (next) this.#goOn();
    return next;
  }

  /** The source is left as it is, and waits. */
  leave(): void {
    this.#isOver = true;
    clearImmediate(this.#turn);
    const source = this.#source.pause();
    source.off('data', this.#onData).off('end', this.#onEnd).off('close', this.#onClose);
    // what goes wrong with it from now on is heard, and of no interest
  }

  #take(piece: Buffer | string): void {
    const bytes = typeof piece === 'string' ? Buffer.from(piece) : piece;
    for (let at = 0; at < bytes.length;) {
      const left = bytes.length - at;
      if (this.#gathered + left > this.#chunk.length) this.#grow(left);
      const taken = bytes.copy(this.#chunk, this.#gathered, at);
      at += taken;
      this.#gathered += taken;
      if (this.#gathered === this.#size) this.#finish();
    }
    this.#inTurn += bytes.length;
    // ours alone: Node has copied it for us
    if (this.#source instanceof IncomingMessage && this.#source.listenerCount('data') === 1)
      letGo(bytes);
    if (this.#full.length >= mostWaiting) this.#source.pause();
    else if (this.#inTurn >= turnBytes) this.#pauseForTurn();
  }

  /** What had come before the stream broke, and waits in it: whoever goes on later need not fetch that again. */
  #takeRest(): void {
    for (;;) {
      const piece = this.#source.read() as Buffer | string | null;
      if (piece === null) return;
      this.#take(piece);
    }
  }

  #pauseForTurn(): void {
    this.#source.pause();
    this.#turn ??= setImmediate(() => {
      this.#turn = undefined;
      this.#inTurn = 0;
      this.#goOn();
    });
  }

  #goOn(): void {
    if (!this.#isOver && !this.#turn && this.#full.length < mostWaiting) this.#source.resume();
  }

  #finish(): void {
    const memory = this.#chunk;
    this.#full.push({ bytes: memory.subarray(0, this.#gathered), memory });
    this.#isEmpty = false;
    this.#chunk = none;
    this.#gathered = 0;
    this.#wake?.();
  }

  #end(failure?: Error): void {
    if (this.#isOver) return;
    if (failure) this.#takeRest();
    this.#isOver = true;
    this.#failure = failure;
    if (!failure && (this.#isEmpty || this.#gathered > 0)) this.#finish();
    this.#wake?.();
  }

  #grow(more: number): void {
    const size = this.#size;
    if (this.#chunk.length >= size) return;
    const wanted = this.#gathered + more;
    const larger =
      wanted > smallBytes || size <= smallBytes
        ? this.#memory.take(size)
        : Buffer.allocUnsafe(Math.max(wanted, Math.min(2 * this.#chunk.length, smallBytes)));
    this.#chunk.copy(larger, 0, 0, this.#gathered);
    this.#chunk = larger;
  }
}
