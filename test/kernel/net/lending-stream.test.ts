import assert from 'node:assert/strict';
import { once } from 'node:events';
import { get, type IncomingMessage } from 'node:http';
import { Writable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { describe, it } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { listen } from '#kernel/http/listen.js';
import { LendingStream, sendStream } from '#kernel/net/lending-stream.js';
import { Scope } from '#kernel/scope.js';

/** `abc…`, a letter a piece, in one piece of memory if it lends. */
function letters(count: number, ended: () => void = () => undefined): LendingStream {
  return new LendingStream(async function* (lends) {
    const own = Buffer.alloc(1);
    try {
      for (let at = 0; at < count; at++) {
        await Promise.resolve();
        const memory = lends ? own : Buffer.alloc(1);
        memory.write(String.fromCharCode(97 + at));
        yield memory;
      }
    } finally {
      ended();
    }
  });
}

function slowTarget(): Writable & { text: string } {
  const target = new Writable({
    write(piece: Buffer, _, done) {
      void setImmediate().then(() => {
        Object.assign(target, { text: target.text + String(piece) });
        done();
      });
    },
  }) as Writable & { text: string };
  target.text = '';
  return target;
}

describe('a stream that lends its memory', () => {
  it('gives it away to ordinary readers', async () => {
    assert.equal(String(await buffer(letters(5))), 'abcde');
  });

  it('uses it again only when a piece has been written', async () => {
    const target = slowTarget();
    await sendStream(letters(5), target);
    assert.equal(target.text, 'abcde');
    assert.ok(target.writableFinished);
  });

  it('comes whole through an HTTP answer, by whatever way its client is slow', async () => {
    const [count, size] = [40, 512 * 1024];
    await using scope = new Scope();
    const { port } = await listen(
      (_, response) => {
        const own = Buffer.alloc(size);
        const blocks = new LendingStream(async function* () {
          for (let at = 0; at < count; at++) {
            await Promise.resolve();
            yield own.fill(at);
          }
        });
        void sendStream(blocks, response);
      },
      { host: '127.0.0.1', port: 0 },
      scope,
    );
    const [answer] = (await once(get({ port, agent: false }), 'response')) as [IncomingMessage];
    let got = 0;
    for await (const piece of answer as AsyncIterable<Buffer>) {
      await setImmediate();
      for (const at of [0, piece.length - 1])
        assert.equal(piece[at], Math.floor((got + at) / size), `at ${got + at}`);
      got += piece.length;
    }
    assert.equal(got, count * size);
  });

  it('ends when its target does, or its reader', async () => {
    let ended = 0;
    const target = slowTarget();
    const sent = sendStream(
      letters(1_000_000, () => ended++),
      target,
    );
    target.destroy();
    await assert.rejects(sent);
    const source = letters(1_000_000, () => ended++);
    for await (const piece of source) {
      assert.equal(String(piece), 'a');
      break;
    }
    await setImmediate();
    assert.equal(ended, 2);
  });

  it('hands on what went wrong, and cuts the target off', async () => {
    const source = new LendingStream(async function* () {
      yield await Promise.resolve(Buffer.from('a'));
      throw new Error('lost');
    });
    const target = slowTarget();
    await assert.rejects(sendStream(source, target), /lost/);
    assert.ok(target.destroyed);
  });
});
