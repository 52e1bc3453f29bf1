import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { createServer, request as httpRequest, type IncomingMessage } from 'node:http';
import type { AddressInfo } from 'node:net';
import { Readable } from 'node:stream';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { Chunks, type Gathered, type Memory } from '#kernel/net/chunks.js';

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
  it('has all full chunks that had come when the stream broke, however much of it was still waiting', async () => {
    const source = new Readable({ read: () => undefined, highWaterMark: 1 });
    const chunks = new Chunks(source, 100_000, memory);
    for (let at = 0; at < 10; at++) source.push(Buffer.alloc(55_000, at));
    await new Promise(setImmediate);
    source.destroy(new Error('it broke'));
    const lengths: number[] = [];
    await assert.rejects(async () => {
      for (let next = await chunks.next(); next; next = await chunks.next())
        lengths.push(next.bytes.length);
    }, /it broke/);
    assert.deepEqual(lengths, [100_000, 100_000, 100_000, 100_000, 100_000]);
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

  it('gathers a few ahead of whoever uses them, and then makes the stream wait', async () => {
    let given = 0;
    const endless = new Readable({
      highWaterMark: 1,
      read() {
        given += 1;
        this.push(Buffer.alloc(1_000));
      },
    });
    const chunks = new Chunks(endless, 10_000, memory);
    await chunks.next();
    for (let turn = 0; turn < 1_000; turn++) await new Promise((resolve) => setImmediate(resolve));
    assert.ok(given >= 30 && given < 45, `${given} kB were read`);
    chunks.leave();
    endless.destroy();
  });

  it('gives what was full before the stream broke, and then says what broke it', async () => {
    const lost = new Error('lost');
    const broken = Readable.from(
      (function* () {
        yield 'abcdef';
        throw lost;
      })(),
    );
    const chunks = new Chunks(broken, 4, memory);
    assert.equal(String((await chunks.next())?.bytes), 'abcd');
    await assert.rejects(chunks.next(), lost);
    const closed = new Readable({ read: () => undefined });
    const waiting = assert.rejects(new Chunks(closed, 4, memory).next(), /ended early/);
    closed.destroy();
    await waiting;
    await assert.rejects(new Chunks(closed, 4, memory).next(), /closed/);
  });

  it('lets go of the memory of a request that nobody else listens to, and only then', async () => {
    const sent = randomBytes(3_000_000);
    for (const isHeard of [false, true]) {
      const pieces: Buffer[] = [];
      const gathered: Buffer[] = [];
      const server = createServer((request, response) => {
        const chunks = new Chunks(request, 1_000_000, memory);
        const push = request.push.bind(request);
        request.push = (piece: Buffer | null) => {
          if (piece) pieces.push(piece);
          return push(piece);
        };
        if (isHeard) request.on('data', () => undefined);
        void (async () => {
          for (let next = await chunks.next(); next; next = await chunks.next())
            gathered.push(next.bytes);
          response.end();
        })();
      });
      await once(server.listen(0, '127.0.0.1'), 'listening');
      const { port } = server.address() as AddressInfo;
      const client = httpRequest({ port, host: '127.0.0.1', method: 'PUT' }).end(sent);
      const [response] = (await once(client, 'response')) as [IncomingMessage];
      await once(response.resume(), 'end');
      server.close();
      assert.ok(Buffer.concat(gathered).equals(sent));
      const left = pieces.reduce((sum, { length }) => sum + length, 0);
      assert.equal(left, isHeard ? sent.length : 0);
    }
  });
});
