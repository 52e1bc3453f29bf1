import type { Readable } from 'node:stream';

export type Gathered = { readonly chunks: readonly Buffer[]; readonly size: number };

/**
 * Cuts a stream into pieces of exactly `size` bytes, the last one shorter; an empty stream is one empty
 * piece. Nothing is copied.
 */
export async function* chunksOf(source: Readable, size: number): AsyncGenerator<Gathered, void> {
  let chunks: Buffer[] = [];
  let gathered = 0;
  let given = false;
  for await (const piece of source as AsyncIterable<Buffer | string>) {
    let rest = typeof piece === 'string' ? Buffer.from(piece) : piece;
    while (gathered + rest.length >= size) {
      const fits = size - gathered;
      chunks.push(rest.subarray(0, fits));
      yield { chunks, size };
      given = true;
      rest = rest.subarray(fits);
      chunks = [];
      gathered = 0;
    }
    if (rest.length > 0) chunks.push(rest);
    gathered += rest.length;
  }
  if (gathered > 0 || !given) yield { chunks, size: gathered };
}
