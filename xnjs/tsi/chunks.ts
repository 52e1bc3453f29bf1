import type { Readable } from 'node:stream';

/** `memory` is free again when `bytes` are needed no more. */
export type Gathered = { readonly bytes: Buffer; readonly memory: Buffer };

export type Memory = {
  take(size: number): Buffer;
};

/** What a short file has room in. */
const smallBytes = 256 * 1024;

/**
 * Cuts a stream into pieces of exactly `size` bytes, the last one shorter; an empty stream is one empty piece. The
 * bytes are copied: what a stream brings are thousands of small buffers, and to keep them until there are enough costs
 * more than to copy them and let them go.
 * @param memory for full pieces
 */
export async function* chunksOf(
  source: Readable,
  size: number,
  memory: Memory,
): AsyncGenerator<Gathered, void> {
  let chunk: Buffer = Buffer.alloc(0);
  let gathered = 0;
  let given = false;
  const pieces = source.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer | string>;
  for await (const piece of pieces) {
    let rest = typeof piece === 'string' ? Buffer.from(piece) : piece;
    while (rest.length > 0) {
      if (gathered + rest.length > chunk.length) chunk = grown(chunk, gathered, rest.length, size, memory); // prettier-ignore
      const taken = rest.copy(chunk, gathered);
      gathered += taken;
      rest = rest.subarray(taken);
      if (gathered < size) continue;
      yield { bytes: chunk, memory: chunk };
      given = true;
      chunk = Buffer.alloc(0);
      gathered = 0;
    }
  }
  if (gathered > 0 || !given) yield { bytes: chunk.subarray(0, gathered), memory: chunk };
}

function grown(
  chunk: Buffer,
  gathered: number,
  more: number,
  size: number,
  memory: Memory,
): Buffer {
  if (chunk.length >= size) return chunk;
  const wanted = gathered + more;
  const larger =
    wanted > smallBytes || size <= smallBytes
      ? memory.take(size)
      : Buffer.allocUnsafe(Math.max(wanted, Math.min(2 * chunk.length, smallBytes)));
  chunk.copy(larger, 0, 0, gathered);
  return larger;
}
