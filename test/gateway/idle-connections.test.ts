import assert from 'node:assert/strict';
import { once } from 'node:events';
import { after, before, describe, it } from 'node:test';
import type { TLSSocket } from 'node:tls';
import { openTls, startRig, type Rig } from './rig.js';

/** Of the addresses that every Linux has for itself. */
const host = '127.0.0.1';

describe('a thousand idle connections', () => {
  const perClient = 300;
  let rig: Rig;
  let session: Buffer;
  const idle: TLSSocket[] = [];
  before(async () => {
    rig = await startRig((_request, response) => response.end('x'), {
      host,
      limits: { connectionsPerClient: perClient, headSeconds: 600, keepAliveSeconds: 600 },
      upstream: { maxRequestsPerSite: 1_000 },
    });
    const first = await openTls(rig, { host });
    // resumed, a handshake costs the half
    [session] = (await once(first, 'session')) as [Buffer];
    first.destroy();
  });
  after(async () => {
    for (const socket of idle) socket.destroy();
    await rig[Symbol.asyncDispose]();
  });

  /** @returns how many were let in; each of the others has to be refused, not left waiting */
  async function openMany(count: number, addressOf: (at: number) => string): Promise<number> {
    const before = idle.length;
    for (let at = 0; at < count; at += 50) {
      const attempts = Array.from({ length: 50 }, (_, more) =>
        openTls(rig, { host, session, localAddress: addressOf(at + more) }),
      );
      for (const attempt of await Promise.allSettled(attempts))
        if (attempt.status === 'fulfilled') idle.push(attempt.value.resume());
    }
    return idle.length - before;
  }
  const areOpen = (): number => idle.filter(({ destroyed }) => !destroyed).length;
  async function others(): Promise<void> {
    for (let i = 0; i < 40; i++) {
      const asked = i % 2 === 0 ? {} : { method: 'POST', body: Buffer.alloc(100_000) };
      const { status, body } = await rig.request({ host, path: '/VSITE/x', ...asked });
      assert.deepEqual([status, body], [200, 'x']);
    }
  }

  it('of several clients let others go on, and are let be', async () => {
    assert.equal(await openMany(1_000, (at) => `127.0.1.${1 + (at % 4)}`), 1_000);
    // A third says nothing, a third stops in the middle of a head, a third rests after a request
    for (const [i, socket] of idle.entries()) {
      if (i % 3 === 1) socket.write('GET /VSITE/x HTTP/1.1\r\nHost: ');
      if (i % 3 === 2) socket.write('GET /VSITE/x HTTP/1.1\r\nHost: h\r\n\r\n');
    }
    await others();
    assert.equal(areOpen(), 1_000);
  });
  it('of one client are no more than one may have, and others go on', async () => {
    const before = areOpen();
    assert.equal(await openMany(1_000, () => '127.0.2.1'), perClient);
    await assert.rejects(openTls(rig, { host, localAddress: '127.0.2.1' }));
    await others();
    assert.equal(areOpen(), before + perClient);
  });
});
