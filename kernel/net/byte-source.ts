import type { Readable } from 'node:stream';
import type { ByteInput, Sink } from './byte-input.js';

/** What is read ahead before the stream is made to wait; a piece may go beyond it. */
const aheadBytes = 1024 * 1024;
/** More are never handed out at once: the system writes no longer lists. */
const mostPieces = 512;

/**
 * Reads a stream by the piece instead of by the event, so that one protocol step takes what is its own
 * and leaves the rest. Reads ahead, but not far: bytes come while the last ones are dealt with. One
 * reader at a time.
 */
export class ByteSource implements ByteInput {
  readonly #stream: Readable;
  readonly #pieces: Buffer[] = [];
  #waitingBytes = 0;
  #ended = false;
  #failure: Error | undefined;
  #wake: (() => void) | undefined;

  constructor(stream: Readable) {
    this.#stream = stream;
    const end = (): void => {
      this.#ended = true;
      this.#wake?.();
    };
    // what is over by now tells nobody any more
    if (stream.errored) this.#failure = stream.errored;
    this.#ended = stream.readableEnded || stream.destroyed;
    stream.on('data', (piece: Buffer) => {
      this.#pieces.push(piece);
      this.#waitingBytes += piece.length;
      if (this.#waitingBytes >= aheadBytes) stream.pause();
      this.#wake?.();
    });
    stream.on('end', end);
    stream.on('close', end);
    stream.on('error', (error: Error) => {
      this.#failure ??= error;
      end();
    });
  }

  /** Bytes that have arrived and that nobody has asked for. */
  get waitingBytes(): number {
    return this.#waitingBytes;
  }

  /** @returns the next bytes, `max` at most; `undefined` at the end of the stream */
  async read(max: number): Promise<Buffer | undefined> {
    if (!(await this.#arrived())) return undefined;
    return this.#shift(max);
  }

  async take(length: number, sink: Sink): Promise<boolean> {
    for (let left = length; left > 0;) {
      if (!(await this.#arrived())) return false;
      const pieces = this.#shiftMany(left);
      left -= pieces.reduce((sum, piece) => sum + piece.length, 0);
      const taken = sink(pieces);
      if (taken) await taken;
    }
    return true;
  }

  fill(target: Buffer): Promise<boolean> {
    let filled = 0;
    return this.take(target.length, (pieces) => {
      for (const piece of pieces) filled += piece.copy(target, filled);
    });
  }

  #shiftMany(max: number): Buffer[] {
    const taken: Buffer[] = [];
    for (let left = max; left > 0 && taken.length < mostPieces;) {
      const piece = this.#shift(left);
      if (!piece) break;
      left -= piece.length;
      taken.push(piece);
    }
    return taken;
  }

  /** @returns whether there are bytes; not before there are, or the stream has ended */
  async #arrived(): Promise<boolean> {
    while (this.#pieces.length === 0) {
      if (this.#failure) throw this.#failure;
      if (this.#ended) return false;
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
    return true;
  }

  #shift(max: number): Buffer | undefined {
    const piece = this.#pieces.shift();
    if (!piece) return undefined;
    const given = piece.subarray(0, max);
    if (given.length < piece.length) this.#pieces.unshift(piece.subarray(max));
    this.#waitingBytes -= given.length;
    if (this.#waitingBytes < aheadBytes && this.#stream.isPaused()) this.#stream.resume();
    return given;
  }
}
