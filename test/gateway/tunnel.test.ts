import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createHash, randomBytes } from 'node:crypto';
import { createServer, type IncomingMessage } from 'node:http';
import { request as httpsRequest } from 'node:https';
import { join } from 'node:path';
import type { Duplex } from 'node:stream';
import { text } from 'node:stream/consumers';
import { after, before, describe, it } from 'node:test';
import { connect, type TLSSocket } from 'node:tls';
import { eventually, startRig, type Rig } from './rig.js';

/** RFC 6455, 4.2.2 */
const acceptOf = (key: string) =>
  createHash('sha1').update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest('base64');

describe('tunnels through the gateway', { timeout: 60_000 }, () => {
  let rig: Rig;
  let far: Duplex | undefined;
  let seen: Record<string, unknown> = {};
  before(async () => {
    rig = await startRig((_request, response) => {
      response.statusCode = 432;
      response.end('no session');
    });
    rig.upstream.on('upgrade', (request, socket: Duplex) => {
      seen = request.headers;
      far = socket;
      socket.on('error', () => undefined);
      if (request.url === '/refuse') {
        socket.end('HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno');
        return;
      }
      socket.write(
        `HTTP/1.1 101 Go\r\nConnection: Upgrade\r\nUpgrade: ${String(request.headers.upgrade)}\r\nX-Site: yes\r\n\r\nhello`,
      );
      // Sends back what it gets, and its end after the other's
      socket.on('data', (chunk: Buffer) => socket.write(chunk));
      socket.on('end', () => socket.end('bye'));
    });
  });
  after(() => rig[Symbol.asyncDispose]());

  async function open(path: string, protocol: string, extra = ''): Promise<TLSSocket> {
    const { port, ca, asUser } = rig;
    const socket = connect({ host: 'localhost', port, ca, ...asUser });
    socket.allowHalfOpen = true;
    await once(socket, 'secureConnect');
    socket.write(
      `GET ${path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: ${protocol}\r\n` +
        `X-UNICORE-Consignor-IP: 1.1.1.1\r\n${extra}\r\n`,
    );
    return socket;
  }

  for (const protocol of ['UNICORE-Socket-Forwarding', 'websocket'])
    it(`carry ${protocol} both ways and hand on the end of each side`, async () => {
      const socket = await open(
        '/vsite/jobs/1/forward-port?port=1',
        protocol,
        'Sec-WebSocket-Key: k\r\n',
      );
      const chunks: Buffer[] = [];
      socket.on('data', (chunk: Buffer) => chunks.push(chunk));
      await eventually(() => Buffer.concat(chunks).includes('hello'), 'the tunnel is open');
      // The head comes alone: clients lose what comes with it
      assert.match(chunks[0]!.toString(), /^HTTP\/1\.1 101 [^]*\r\n\r\n$/);
      assert.match(chunks[0]!.toString(), new RegExp(`\r\nUpgrade: ${protocol}\r\n`));
      assert.match(chunks[0]!.toString(), /\r\nX-Site: yes\r\n/);
      assert.match(String(seen['x-unicore-consignor']), /Demo User/);
      assert.notEqual(seen['x-unicore-consignor-ip'], '1.1.1.1');
      assert.equal(seen['sec-websocket-key'], 'k');
      chunks.length = 0;
      const sent = Buffer.alloc(3_000_000, 'abcdefg');
      socket.end(sent);
      await once(socket, 'end');
      const received = Buffer.concat(chunks);
      assert.equal(received.subarray(-3).toString(), 'bye');
      const digest = (data: Buffer) => createHash('sha256').update(data).digest('hex');
      assert.equal(digest(received.subarray(0, -3)), digest(sent));
      socket.destroy();
    });
  it('carry the handshake and the frames of a WebSocket', async () => {
    await using other = await startRig(() => undefined);
    other.upstream.on('upgrade', ({ headers }, socket: Duplex) => {
      socket.on('error', () => undefined);
      socket.write(
        'HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n' +
          `Sec-WebSocket-Accept: ${acceptOf(String(headers['sec-websocket-key']))}\r\n` +
          `Sec-WebSocket-Protocol: ${String(headers['sec-websocket-protocol'])}\r\n\r\n`,
      );
      socket.on('end', () => socket.end());
      // Unmasks and sends back, as a server does
      socket.on('data', (frame: Buffer) => {
        const mask = frame.subarray(2, 6);
        const text = frame.subarray(6).map((byte, i) => byte ^ mask[i % 4]!);
        socket.write(Buffer.concat([Buffer.from([0x81, text.length]), text]));
      });
    });
    const key = randomBytes(16).toString('base64');
    const request = httpsRequest({
      ...{ host: 'localhost', port: other.port, ca: other.ca, path: '/VSITE/x', agent: false },
      headers: {
        // As browsers behind some proxies write it
        ...{ Connection: 'keep-alive, Upgrade', Upgrade: 'WebSocket', Origin: 'https://portal' },
        ...{ 'Sec-WebSocket-Key': key, 'Sec-WebSocket-Version': '13' },
        'Sec-WebSocket-Protocol': 'chat',
      },
    });
    const [answer, socket] = (await once(request.end(), 'upgrade')) as [IncomingMessage, Duplex];
    assert.equal(answer.headers['sec-websocket-accept'], acceptOf(key));
    assert.equal(answer.headers['sec-websocket-protocol'], 'chat');
    const mask = randomBytes(4);
    const masked = Buffer.from('hello').map((byte, i) => byte ^ mask[i % 4]!);
    socket.write(Buffer.concat([Buffer.from([0x81, 0x80 | masked.length]), mask, masked]));
    const [frame] = (await once(socket, 'data')) as [Buffer];
    assert.deepEqual(frame, Buffer.from('\x81\x05hello', 'latin1'));
    socket.destroy();
  });
  it('end on both sides when one fails', async () => {
    const near = await open('/VSITE/x', 'websocket');
    near.resume().on('error', () => undefined);
    far = undefined;
    await eventually(() => far !== undefined, 'the tunnel is open');
    near.destroy();
    await eventually(() => far!.destroyed, 'the far side ended');
    const other = await open('/VSITE/x', 'websocket');
    other.resume().on('error', () => undefined);
    far = undefined;
    await eventually(() => far !== undefined, 'the tunnel is open');
    (far as unknown as Duplex).destroy();
    await once(other, 'end');
    other.destroy();
  });
  const refusals = [
    ['the site refuses', '/VSITE/refuse', 'websocket', /^HTTP\/1\.1 403 [^]*no$/],
    ['the site is down', '/DOWN/x', 'websocket', /^HTTP\/1\.1 503 /],
    ['there is no such site', '/NIX/x', 'websocket', /^HTTP\/1\.1 404 /],
    ['the path leads out', '/VSITE/../x', 'websocket', /^HTTP\/1\.1 400 /],
  ] as const;
  for (const [what, path, protocol, expected] of refusals)
    it(`are not opened when ${what}`, async () => {
      const socket = await open(path, protocol);
      let heard = '';
      socket.on('data', (chunk: Buffer) => (heard += chunk.toString()));
      await once(socket, 'end');
      assert.match(heard, expected);
      socket.destroy();
    });
  it('are not what other protocols get: their requests are ordinary ones, bodies and connections included', async () => {
    const asked: { upgrade: unknown; text: string }[] = [];
    await using other = await startRig((request, response) => {
      void text(request).then((body) => {
        asked.push({ upgrade: request.headers.upgrade, text: `${request.method ?? ''} ${body}` });
        response.end('an answer');
      });
    });
    const { port, ca } = other;
    const socket = connect({ host: 'localhost', port, ca });
    let heard = '';
    socket.on('data', (chunk: Buffer) => (heard += chunk.toString()));
    const head = (method: string, more: string) =>
      `${method} /VSITE/x HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\n${more}\r\n`;
    const h2c = 'Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n';
    const answers = () => heard.split('an answer').length - 1;
    socket.write(head('POST', `${h2c}Content-Length: 4\r\n`));
    socket.write('body');
    await eventually(() => answers() === 1, 'the first is answered');
    socket.write(head('GET', h2c));
    await eventually(() => answers() === 2, 'the next on the same connection');
    socket.write(
      `${head('PUT', 'Upgrade: websocket\r\nTransfer-Encoding: chunked\r\n')}2\r\nhi\r\n0\r\n\r\n`,
    );
    await eventually(() => answers() === 3, 'a tunnel is opened by GET alone');
    socket.destroy();
    assert.match(heard, /^HTTP\/1\.1 200 /);
    assert.deepEqual(
      asked,
      ['POST body', 'GET ', 'PUT hi'].map((what) => ({ upgrade: undefined, text: what })),
    );
  });
  it('go to the third of three servers when two are down', async () => {
    await using other = await startRig(() => undefined);
    const { directory } = other;
    const third = createServer().listen(join(directory, 'c'));
    third.on('upgrade', (_request, far: Duplex) => {
      far.on('error', () => undefined).resume();
      far.end('HTTP/1.1 101 Go\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nthird');
    });
    // Nobody has found out yet who is down
    const addresses = ['a', 'b', 'c'].map((name) => `unix:${join(directory, name)}`);
    await other.reconfigure({ sites: { GRID: { addresses, healthCheckSeconds: 600 } } });
    const socket = connect({ host: 'localhost', port: other.port, ca: other.ca });
    let heard = '';
    socket.on('data', (chunk: Buffer) => (heard += chunk.toString()));
    socket.write(
      'GET /GRID/x HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n',
    );
    await eventually(() => heard.includes('third'), 'the first tunnel is open');
    assert.match(heard, /^HTTP\/1\.1 101 /);
    socket.destroy();
    third.close();
  });
  it('do not keep the gateway from closing', async () => {
    await using other = await startRig(() => undefined);
    other.upstream.on('upgrade', (_request, socket: Duplex) => {
      socket.on('error', () => undefined);
      socket.resume().on('end', () => socket.end());
      socket.write('HTTP/1.1 101 Go\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n');
    });
    const { port, ca } = other;
    const socket = connect({ host: 'localhost', port, ca });
    socket.on('error', () => undefined);
    socket.write(
      'GET /VSITE/x HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n',
    );
    await once(socket, 'data');
    await other.gateway.close();
    await eventually(() => socket.destroyed || socket.readableEnded, 'the tunnel ended');
    socket.destroy();
  });
});
