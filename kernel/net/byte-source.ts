import type { Readable } from 'node:stream';

/**
 * Reads a stream by the piece instead of by the event, so that one protocol step takes what is its own
 * and leaves the rest. One reader at a time.
 */
export class ByteSource {
  readonly #stream: Readable;
  #rest: Buffer | undefined;
  #ended = false;
  #failure: Error | undefined;
  #wake: (() => void) | undefined;

  constructor(stream: Readable) {
    this.#stream = stream;
    const wake = (): void => this.#wake?.();
    const end = (): void => {
      this.#ended = true;
      wake();
    };
    stream.on('readable', wake);
    stream.on('end', end);
    stream.on('close', end);
    stream.on('error', (error: Error) => {
      this.#failure ??= error;
      end();
    });
  }

  /** Bytes that have arrived and that nobody has asked for. */
  get waitingBytes(): number {
    return (this.#rest?.length ?? 0) + this.#stream.readableLength;
  }

  /** @returns the next bytes, `max` at most; `undefined` at the end of the stream */
  async read(max: number): Promise<Buffer | undefined> {
    for (;;) {
      const chunk = this.#rest ?? (this.#stream.read() as Buffer | null);
      if (chunk && chunk.length > 0) {
        this.#rest = chunk.length > max ? chunk.subarray(max) : undefined;
        return chunk.length > max ? chunk.subarray(0, max) : chunk;
      }
      if (this.#failure) throw this.#failure;
      if (this.#ended) return undefined;
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
  }

  /** The next `length` bytes piece by piece; ends early if the stream does. */
  async *take(length: number): AsyncGenerator<Buffer, void, undefined> {
    for (let left = length; left > 0;) {
      const chunk = await this.read(left);
      if (!chunk) return;
      left -= chunk.length;
      yield chunk;
    }
  }
}
