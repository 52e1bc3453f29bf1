import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect } from 'node:tls';
import { after, before, describe, it } from 'node:test';
import { startRig, type Rig } from './rig.js';

describe('a request at the gateway', () => {
  let rig: Rig;
  /** Whether the site has seen anything. */
  let reached = false;
  before(async () => {
    rig = await startRig(({ headers }, response) => {
      reached = true;
      response.end(JSON.stringify(headers));
    });
  });
  after(() => rig[Symbol.asyncDispose]());

  const refusals = [
    ['a path out of the site', { path: '/VSITE/../IMAGES/x' }, 400],
    ['an encoded path out of the site', { path: '/VSITE/%2e%2e/IMAGES/x' }, 400],
    ['TRACE', { path: '/VSITE/x', method: 'TRACE' }, 405],
    ['PATCH', { path: '/VSITE/x', method: 'PATCH' }, 405],
    ['POST to the front page', { path: '/', method: 'POST' }, 405],
    ['a Host that is none', { path: '/VSITE/x', headers: { Host: 'a/b"' } }, 400],
    [
      'a coding it does not know',
      { path: '/VSITE/x', method: 'POST', headers: { 'transfer-encoding': 'gzip, chunked' } },
      501,
    ],
  ] as const;
  for (const [what, options, status] of refusals)
    it(`refuses ${what}`, async () => {
      reached = false;
      assert.equal((await rig.request(options)).status, status);
      assert.equal(reached, false);
    });

  /** Sends bytes as they are, collects what comes until the connection ends. */
  async function raw(text: string): Promise<string> {
    const socket = connect({ host: 'localhost', port: rig.port, ca: rig.ca });
    await once(socket, 'secureConnect');
    socket.write(text);
    let answer = '';
    socket.on('data', (chunk: Buffer) => (answer += chunk.toString()));
    socket.on('error', () => undefined);
    await once(socket, 'close');
    return answer;
  }
  const broken = [
    ['no HTTP', 'hello\r\n\r\n', 400],
    ['a space in the path', 'GET /VSITE/a b HTTP/1.1\r\nHost: h\r\n\r\n', 400],
    [
      'a bare line feed in a header',
      'GET /VSITE/x HTTP/1.1\r\nHost: h\r\nX: a\nX-UNICORE-Consignor: b\rx\r\n\r\n',
      400,
    ],
    [
      'a header folded onto two lines',
      'GET /VSITE/x HTTP/1.1\r\nHost: h\r\nX: a\r\n X-UNICORE-Gateway: b\r\n\r\n',
      400,
    ],
    [
      'two lengths',
      'POST /VSITE/x HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab',
      400,
    ],
    [
      'length and chunks',
      'POST /VSITE/x HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n',
      400,
    ],
    [
      'a blank before the colon',
      'GET /VSITE/x HTTP/1.1\r\nHost: h\r\nX-UNICORE-Consignor : a\r\n\r\n',
      400,
    ],
    ['no Host', 'GET /VSITE/x HTTP/1.1\r\n\r\n', 400],
    [
      'a head of 40 kB',
      `GET /VSITE/x HTTP/1.1\r\nHost: h\r\nX: ${'a'.repeat(40_000)}\r\n\r\n`,
      431,
    ],
    ['a path of 40 kB', `GET /VSITE/${'a'.repeat(40_000)} HTTP/1.1\r\nHost: h\r\n\r\n`, 431],
    [
      'ten thousand small headers',
      `GET /VSITE/x HTTP/1.1\r\nHost: h\r\n${'a:\r\n'.repeat(10_000)}\r\n`,
      400,
    ],
  ] as const;
  for (const [what, text, status] of broken)
    it(`refuses ${what}`, async () => {
      reached = false;
      assert.match(await raw(text), new RegExp(`^HTTP/1.1 ${status} `));
      assert.equal(reached, false);
    });
  it('takes several requests in one packet one after the other', async () => {
    const one = 'GET /VSITE/x HTTP/1.1\r\nHost: h\r\n\r\n';
    const answer = await raw(one + one.replace('Host', 'Connection: close\r\nHost'));
    assert.equal(answer.match(/HTTP\/1\.1 200/g)?.length, 2);
  });
  it('speaks HTTP/1.0', async () => {
    const answer = await raw('GET /VSITE/x HTTP/1.0\r\n\r\n');
    assert.match(answer, /^HTTP\/1.1 200 /);
    assert.match(answer, new RegExp(`https://localhost:${rig.port}/VSITE`));
  });
});
