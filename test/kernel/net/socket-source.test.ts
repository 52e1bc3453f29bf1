import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';
import { after, before, describe, it } from 'node:test';
import { openInput, SocketSource } from '#kernel/net/socket-source.js';

describe('a connection that is read into memory of ours', () => {
  const server = createServer();
  before(async () => {
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
  });
  after(() => server.close());

  async function pair(): Promise<{ near: Socket; far: Socket }> {
    const accepted = once(server, 'connection');
    const near = connect((server.address() as AddressInfo).port, '127.0.0.1');
    const [far] = (await accepted) as [Socket];
    return { near, far };
  }

  async function taken(input: SocketSource, length: number): Promise<string> {
    let text = '';
    const whole = await input.take(length, (pieces) => {
      for (const piece of pieces) text += piece.toString('latin1');
    });
    return whole ? text : `${text} and the end`;
  }

  it('gives each reader what is its own, and leaves the rest', async () => {
    const { near, far } = await pair();
    const input = SocketSource.of(far)!;
    near.write('abcdef');
    assert.equal(await taken(input, 4), 'abcd');
    assert.equal(input.waitingBytes, 2);
    near.end('gh');
    assert.equal(await taken(input, 4), 'efgh');
    assert.equal(await taken(input, 1), ' and the end');
  });

  it('does not touch what a slow reader still has', async () => {
    const { near, far } = await pair();
    const input = SocketSource.of(far)!;
    const sent = randomBytes(3_000_000);
    near.write(sent);
    const hash = createHash('sha256');
    await input.take(sent.length, async (pieces) => {
      await new Promise((resolve) => setImmediate(resolve));
      for (const piece of pieces) hash.update(piece);
    });
    assert.equal(hash.digest('hex'), createHash('sha256').update(sent).digest('hex'));
    near.destroy();
  });

  it('fills what it is given, by the bytes that came before and those that come', async () => {
    const { near, far } = await pair();
    const input = SocketSource.of(far)!;
    const sent = randomBytes(3_000_000);
    near.write(sent);
    const parts = [Buffer.alloc(1), Buffer.alloc(1_500_000), Buffer.alloc(0), Buffer.alloc(1_000_000)]; // prettier-ignore
    for (const part of parts) assert.equal(await input.fill(part), true);
    const rest = await taken(input, 499_999);
    assert.ok(Buffer.concat([...parts, Buffer.from(rest, 'latin1')]).equals(sent));
    near.end('ab');
    assert.equal(await input.fill(Buffer.alloc(3)), false);
    near.destroy();
  });

  it('keeps what comes behind what it was to fill for the next reader', async () => {
    const { near, far } = await pair();
    const input = SocketSource.of(far)!;
    const target = Buffer.alloc(4);
    near.write('abcdef');
    assert.equal(await input.fill(target), true);
    assert.deepEqual([String(target), await taken(input, 2)], ['abcd', 'ef']);
    near.destroy();
  });

  it('says what broke the connection while it was to be filled', async () => {
    const { near, far } = await pair();
    const input = SocketSource.of(far)!;
    near.write('ab');
    assert.equal(await input.fill(Buffer.alloc(2)), true);
    const filled = assert.rejects(input.fill(Buffer.alloc(4)), { code: 'ECONNRESET' });
    near.resetAndDestroy();
    await filled;
  });

  it('says why it stopped, if the reader has failed', async () => {
    const { near, far } = await pair();
    const input = SocketSource.of(far)!;
    near.write('x');
    const full = new Error('full');
    await assert.rejects(
      input.take(1, () => Promise.reject(full)),
      full,
    );
    near.destroy();
  });

  it('ends with the socket that it was, and that one with it', async () => {
    for (const ends of ['first', 'second'] as const) {
      const { near, far } = await pair();
      const { socket } = SocketSource.of(far)!;
      const closed = Promise.all([once(near, 'close'), once(far, 'close'), once(socket, 'close')]);
      near.resume();
      (ends === 'first' ? far : socket).destroy();
      await closed;
    }
  });

  it('sees the end though nobody reads', async () => {
    const { near, far } = await pair();
    const { socket } = SocketSource.of(far)!;
    near.end();
    await once(socket, 'close');
  });

  it('says what broke the connection in the middle', async () => {
    const { near, far } = await pair();
    const input = SocketSource.of(far)!;
    near.write('ab');
    const refused = assert.rejects(
      input.take(4, () => {
        near.resetAndDestroy();
      }),
      { code: 'ECONNRESET' },
    );
    await refused;
  });

  it('ends in the middle when either socket is destroyed', async () => {
    for (const ends of ['first', 'second'] as const) {
      const { near, far } = await pair();
      const input = SocketSource.of(far)!;
      near.resume().write('ab');
      const whole = await input.take(4, () => {
        (ends === 'first' ? far : input.socket).destroy();
      });
      assert.equal(whole, false);
    }
  });

  it('can still answer a peer that has ended its half', async () => {
    const { near, far } = await pair();
    far.allowHalfOpen = true;
    const input = SocketSource.of(far)!;
    near.end('ab');
    assert.equal(await taken(input, 2), 'ab');
    assert.equal(await taken(input, 1), ' and the end');
    input.socket.end('answer');
    let answer = '';
    for await (const piece of near) answer += String(piece);
    assert.equal(answer, 'answer');
  });

  describe('takes the ordinary way', () => {
    for (const inner of ['useUserBuffer', 'readStop', 'reading'] as const)
      it(`where the inside of a socket has no ${inner}`, async () => {
        const { near, far } = await pair();
        Object.assign((far as unknown as { _handle: object })._handle, { [inner]: undefined });
        const { input, stream } = openInput(far);
        assert.equal(stream, far);
        near.end('abc');
        let text = '';
        const whole = await input.take(3, (pieces) => {
          for (const piece of pieces) text += String(piece);
        });
        assert.deepEqual([whole, text], [true, 'abc']);
        near.destroy();
        far.destroy();
      });
    it('where something is still to be sent, which would be lost', async () => {
      const { near, far } = await pair();
      const size = 8 * 1024 * 1024;
      far.write(Buffer.alloc(size));
      far.write('the end');
      const { stream } = openInput(far);
      stream.end();
      let bytes = 0;
      for await (const piece of near) bytes += (piece as Buffer).length;
      assert.equal(bytes, size + 'the end'.length);
    });
    it('where the peer has ended already, and says so', async () => {
      const { near, far } = await pair();
      near.end();
      await once(far.resume(), 'close');
      const { input } = openInput(far);
      assert.equal(await input.take(1, () => undefined), false);
    });
  });

  it('takes the ordinary way where something was read already', async () => {
    const { near, far } = await pair();
    near.end('abc');
    await once(far, 'readable');
    const { input, stream } = openInput(far);
    assert.equal(stream, far);
    let text = '';
    await input.take(3, (pieces) => {
      text += String(pieces[0]);
    });
    assert.equal(text, 'abc');
  });
});
