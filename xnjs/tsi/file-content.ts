import { IncomingMessage } from 'node:http';
import type { Readable } from 'node:stream';
import { LendingStream } from '#kernel/net/lending-stream.js';
import * as commands from '#tsi/protocol/commands.js';
import type { Calls } from './calls.js';
import { chunkMemory } from '#kernel/net/chunk-memory.js';
import { Chunks, type Gathered } from '#kernel/net/chunks.js';
import type { CallOptions, Tsi, TsiIdentity } from './tsi.js';
import type { Put } from './worker.js';

/** `full`: as long as was asked for, so that more may follow. `ours`: our agent sent it. */
type Chunk = { readonly bytes: Buffer; readonly full: boolean; readonly ours: boolean };

const none = Buffer.alloc(0);
/** What a reader is given at a time. */
const pieceBytes = 512 * 1024;

function* piecesOf(chunk: Buffer): Generator<Buffer, void, undefined> {
  for (let at = 0; at < chunk.length; at += pieceBytes) yield chunk.subarray(at, at + pieceBytes);
}

/** What files hold, fetched and brought a chunk at a time. */
export class FileContent {
  readonly #calls: Calls;
  readonly #chunkBytes: number;

  constructor(calls: Calls, chunkBytes: number) {
    this.#calls = calls;
    this.#chunkBytes = chunkBytes;
  }

  read(...[identity, path, range = {}, options]: Parameters<Tsi['read']>): Readable {
    const { offset = 0, length = Number.MAX_SAFE_INTEGER } = range;
    return new LendingStream((lends) =>
      this.#chunks(identity, path, offset, length, lends, options),
    );
  }

  /**
   * Ahead of the reader, so that the channel is busy while the reader is: by one chunk, and by two where
   * the TSI is our agent, which minds no question for what is behind the end of a file.
   */
  async *#chunks(
    identity: TsiIdentity,
    path: string,
    offset: number,
    length: number,
    lends: boolean,
    options?: CallOptions,
  ): AsyncGenerator<Buffer, void, undefined> {
    const chunkBytes = this.#chunkBytes;
    let asked = 0;
    let ahead = 1;
    const coming: Promise<Chunk>[] = [];
    const ask = (): void => {
      while (coming.length < ahead && asked < length) {
        const wanted = Math.min(chunkBytes, length - asked);
        const more = asked + wanted < length;
        const value = { path, offset: offset + asked, length: wanted, literal: true, more };
        const chunk = this.#fetch(commands.getFileChunk.encode(value, identity), wanted, options);
        chunk.catch(() => undefined); // the reader may have left before it is due
        coming.push(chunk);
        asked += wanted;
      }
    };
    ask();
    for (let next = coming.shift(); next; next = coming.shift()) {
      const { bytes, full, ours } = await next;
      ahead = ours ? 2 : 1;
      if (full) ask();
      yield* piecesOf(bytes);
      if (lends && bytes.length === chunkBytes) chunkMemory.giveBack(bytes);
      if (!full) return;
    }
  }

  #fetch(message: string, wanted: number, options?: CallOptions): Promise<Chunk> {
    return this.#calls.repeat(options, async (worker) => {
      const memory = (size: number): Buffer =>
        size === this.#chunkBytes ? chunkMemory.take(size) : Buffer.allocUnsafe(size);
      const bytes = await worker.get(message, wanted, memory);
      return { bytes, full: bytes.length === wanted, ours: worker.can('ordered-header') };
    });
  }

  /**
   * The next chunks are gathered while one is on its way. A full one is said to be followed by another; where it was
   * the last, an empty one ends the transfer: nobody can run a file that is open for writing.
   */
  async write(...[identity, path, source, how = {}, options]: Parameters<Tsi['write']>) {
    const { mode = 0o600, append = false } = how;
    const chunkBytes = this.#chunkBytes;
    let action = append ? commands.appendAction : '0';
    let [written, last] = [0, 0];
    const toPut = ({ bytes, memory }: Gathered): Put => {
      const { length } = bytes;
      const value = { action, file: { path, mode }, length, literal: true };
      const message = commands.putFileChunk.encode(
        { ...value, more: length === chunkBytes },
        identity,
      );
      action = commands.appendAction;
      last = length;
      const onStored = (): void => {
        written += length;
        if (memory.length === chunkBytes) chunkMemory.giveBack(memory);
      };
      return { message, bytes, onStored };
    };
    const chunks = new Chunks(source, chunkBytes, chunkMemory);
    const following = (): Put | undefined => {
      const ready = chunks.takeReady();
      return ready && toPut(ready);
    };
    const put = async (chunk: Gathered): Promise<void> => {
      const first = toPut(chunk);
      await this.#calls.use(options, (worker) => worker.put(first, following));
    };
    try {
      for (let next = await chunks.next(); next; next = await chunks.next()) await put(next);
      if (last === chunkBytes) await put({ bytes: none, memory: none });
      return written;
    } catch (error) {
      // a client's connection is still to carry the answer
      if (!(source instanceof IncomingMessage)) source.destroy();
      throw error;
    } finally {
      chunks.leave();
    }
  }
}
