import { ServerResponse } from 'node:http';
import { Readable, type Writable } from 'node:stream';
import { finished, pipeline } from 'node:stream/promises';
import { write } from './write.js';

/** @param lends each piece is left alone until the next is asked for, no longer */
type Pieces = (lends: boolean) => AsyncGenerator<Buffer, void, undefined>;

/**
 * A stream that can lend its memory instead of giving it away: to whoever takes its pieces one by one. Fresh
 * memory for all that passes costs page faults and garbage collections of the whole process.
 */
export class LendingStream extends Readable {
  readonly #pieces: Pieces;
  #given: AsyncGenerator<Buffer, void, undefined> | undefined;

  constructor(pieces: Pieces) {
    super();
    this.#pieces = pieces;
  }

  /** Instead of reading. */
  lent(): AsyncGenerator<Buffer, void, undefined> {
    return this.#pieces(true);
  }

  override _read(): void {
    this.#given ??= this.#pieces(false);
    this.#given.next().then(
      ({ value }) => this.push(value ?? null),
      (error: unknown) => this.destroy(error as Error),
    );
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    void this.#given?.return().catch(() => undefined);
    done(error);
  }
}

/** The pieces of a stream, lent where it lends. */
export function piecesOf(source: Readable, lends: boolean): AsyncIterable<Buffer> {
  return lends && source instanceof LendingStream
    ? source.lent()
    : (source as AsyncIterable<Buffer>); // bytes: no encoding is set
}

/**
 * `pipeline()`, without fresh memory where the source lends it. Where that fails at once, the answer to a request is
 * still to be given: it is left as it is.
 */
export async function sendStream(
  source: Readable,
  target: Writable | ServerResponse,
): Promise<void> {
  if (!(source instanceof LendingStream)) {
    await pipeline(source, target);
    return;
  }
  target.on('error', () => undefined); // told below
  try {
    for await (const piece of source.lent()) await write(target, piece);
    target.end();
    await finished(target);
  } catch (error) {
    if (!(target instanceof ServerResponse) || target.headersSent) target.destroy(error as Error);
    throw error;
  }
}
