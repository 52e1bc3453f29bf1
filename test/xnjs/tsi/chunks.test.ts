import assert from 'node:assert/strict';
import { Readable } from 'node:stream';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { Chunks, type Gathered, type Memory } from '#xnjs/tsi/chunks.js';

const memory = { take: (size: number) => Buffer.allocUnsafeSlow(size) };

async function* chunksOf(
  source: Readable,
  size: number,
  from: Memory = memory,
): AsyncGenerator<Gathered> {
  const chunks = new Chunks(source, size, from);
  for (let next = await chunks.next(); next; next = await chunks.next()) yield next;
}

async function cut(pieces: readonly (Buffer | string)[], size: number): Promise<string[]> {
  const texts: string[] = [];
  for await (const { bytes } of chunksOf(Readable.from(pieces), size))
    texts.push(bytes.toString('latin1'));
  return texts;
}

describe('a stream in chunks', () => {
  it('is one empty chunk if it is empty', async () => {
    assert.deepEqual(await cut([], 4), ['']);
  });
  it('has full chunks and then the rest, however it arrives', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.uint8Array({ maxLength: 20 }), { maxLength: 20 }),
        fc.integer({ min: 1, max: 30 }),
        async (arrays, size) => {
          const pieces = arrays.map((each) => Buffer.from(each)).filter(({ length }) => length > 0);
          const all = Buffer.concat(pieces).toString('latin1');
          const expected = all.match(new RegExp(`[^]{1,${size}}`, 'g')) ?? [''];
          assert.deepEqual(await cut(pieces, size), expected);
        },
      ),
    );
  });
  it('grows from a short file to a long one without losing a byte', async () => {
    const piece = (at: number): Buffer => Buffer.alloc(100_000, at);
    const pieces = Array.from({ length: 30 }, (_, at) => piece(at));
    const chunks = await cut(pieces, 1_000_000);
    assert.deepEqual(
      chunks.map(({ length }) => length),
      [1_000_000, 1_000_000, 1_000_000],
    );
    assert.ok(Buffer.from(chunks.join(''), 'latin1').equals(Buffer.concat(pieces)));
  });
  it('asks for the memory of full chunks, and not for that of a short file', async () => {
    const taken: number[] = [];
    const counting = {
      take: (size: number) => {
        taken.push(size);
        return Buffer.alloc(size);
      },
    };
    const lengths = async (bytes: number): Promise<number[]> => {
      const found: number[] = [];
      for await (const gathered of chunksOf(Readable.from([Buffer.alloc(bytes)]), 1e6, counting))
        found.push(gathered.bytes.length);
      return found;
    };
    assert.deepEqual(await lengths(1_000), [1_000]);
    assert.deepEqual(taken, []);
    assert.deepEqual(await lengths(1_500_000), [1_000_000, 500_000]);
    assert.deepEqual(taken, [1e6, 1e6]);
  });
});
