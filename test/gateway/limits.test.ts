import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer, type IncomingMessage } from 'node:http';
import { Agent, request as httpsRequest } from 'node:https';
import { connect, createServer as createTcpServer, type AddressInfo, type Socket } from 'node:net';
import { describe, it } from 'node:test';
import { eventually, openTls, rigDefaults, startRig } from './rig.js';

const MiB = 1024 * 1024;
/** Short, so that nobody has to wait long for their end. */
const impatient = {
  headSeconds: 0.4,
  slowSeconds: 0.6,
  minBytesPerSecond: 1000,
  keepAliveSeconds: 0.3,
};

/** Bytes again and again; who still sends may be told by a reset that nobody listens. */
async function dripUntilClosed(socket: Socket, bytes: string): Promise<void> {
  const drip = setInterval(() => socket.write(bytes), 50);
  socket.on('error', () => undefined);
  await new Promise<void>((resolve) => socket.once('close', () => resolve()));
  clearInterval(drip);
}

describe('gateway limits', () => {
  it('stream 256 MiB each way in bounded memory, at the pace of the slower end', async () => {
    const size = 256 * MiB;
    const block = Buffer.alloc(MiB, 'x');
    await using rig = await startRig((request, response) => {
      let received = 0;
      if (request.method === 'PUT') {
        request.on('data', (chunk: Buffer) => (received += chunk.length));
        request.on('end', () => response.end(String(received)));
        return;
      }
      response.setHeader('content-length', size);
      let sent = 0;
      const more = () => {
        while (sent < size) {
          sent += block.length;
          if (!response.write(block)) return void response.once('drain', more);
        }
        response.end();
      };
      more();
    });
    const baseline = process.memoryUsage().rss;
    let peak = 0;
    const watch = setInterval(() => (peak = Math.max(peak, process.memoryUsage().rss)), 20);
    const options = { host: 'localhost', port: rig.port, ca: rig.ca, agent: false } as const;

    const upload = httpsRequest({ ...options, path: '/VSITE/up', method: 'PUT' });
    for (let sent = 0; sent < size; sent += block.length)
      if (!upload.write(block)) await once(upload, 'drain');
    upload.end();
    const [uploaded] = (await once(upload, 'response')) as [IncomingMessage];
    const text = await uploaded
      .setEncoding('utf8')
      .reduce((all: string, part: string) => all + part, '');
    assert.equal(text, String(size));

    const download = httpsRequest({ ...options, path: '/VSITE/down' }).end();
    const [answer] = (await once(download, 'response')) as [IncomingMessage];
    let received = 0;
    for await (const chunk of answer as AsyncIterable<Buffer>) received += chunk.length;
    clearInterval(watch);
    assert.equal(received, size);
    assert.ok(
      peak - baseline < 128 * MiB,
      `memory grew by ${Math.round((peak - baseline) / MiB)} MiB`,
    );
  });

  it('stop reading from a site whose client does not read', async () => {
    let sent = 0;
    const block = Buffer.alloc(MiB);
    await using rig = await startRig((_request, response) => {
      const more = () => {
        do sent += block.length;
        while (response.write(block) && sent < 512 * MiB);
        response.once('drain', more);
      };
      more();
    });
    const socket = await openTls(rig);
    socket.pause();
    socket.write('GET /VSITE/x HTTP/1.1\r\nHost: h\r\n\r\n');
    await eventually(() => sent > 0, 'the site sends');
    let last = -1;
    let lastChange = Date.now();
    await eventually(() => {
      if (sent !== last) [last, lastChange] = [sent, Date.now()];
      return Date.now() - lastChange > 300;
    }, 'the site is held back');
    assert.ok(sent < 64 * MiB, `${sent / MiB} MiB were taken from the site`);
    socket.destroy();
  });

  const slow = [
    ['says nothing', ''],
    ['sends half a head', 'GET /VSITE/x HTTP/1.1\r\nHost: h\r\nX-A: '],
    ['sends half a body', 'PUT /VSITE/x HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\nabc'],
    ['rests after its request', 'GET /VSITE/fast HTTP/1.1\r\nHost: h\r\n\r\n'],
  ] as const;
  for (const [what, text] of slow)
    it(`end a connection that ${what}`, async () => {
      await using rig = await startRig(
        (request, response) => {
          request.resume();
          if (request.url === '/fast') response.end('x');
          else request.on('end', () => response.end('x'));
        },
        { limits: impatient },
      );
      const socket = await openTls(rig);
      socket.resume();
      if (text) socket.write(text);
      await once(socket, 'close');
    });
  it('end a connection that does not begin with TLS', async () => {
    await using rig = await startRig((_request, response) => response.end(), { limits: impatient });
    for (const bytes of ['', '\x16\x03\x01\x02', 'GET / HTTP/1.1\r\nHost: h\r\n\r\n']) {
      const socket = connect({ host: 'localhost', port: rig.port });
      socket.on('error', () => undefined).resume();
      socket.write(bytes);
      await once(socket, 'close');
    }
    assert.equal((await rig.request({ path: '/VSITE/x' })).status, 200);
  });
  it('end a connection that drips its body in chunks of a byte', async () => {
    await using rig = await startRig((request) => request.resume(), { limits: impatient });
    const socket = await openTls(rig);
    socket.resume();
    socket.write('PUT /VSITE/x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n');
    await dripUntilClosed(socket, '1\r\nx\r\n');
  });
  it('end a connection that drips its head, byte by byte', async () => {
    await using rig = await startRig((_request, response) => response.end(), { limits: impatient });
    const socket = await openTls(rig);
    socket.resume();
    socket.write('GET /VSITE/x HTTP/1.1\r\nX: ');
    await dripUntilClosed(socket, 'x');
  });
  it('end an answer that is not read', async () => {
    await using rig = await startRig((_request, response) => response.end(Buffer.alloc(64 * MiB)), {
      limits: impatient,
    });
    const socket = await openTls(rig);
    socket.pause();
    socket.write('GET /VSITE/x HTTP/1.1\r\nHost: h\r\n\r\n');
    await eventually(
      () => rig.lines.some(({ msg, whole }) => msg === 'request' && whole === false),
      'the gateway gave up',
    );
    socket.destroy();
  });
  it('let a site think, however impatient with clients', async () => {
    let answer: (() => void) | undefined;
    await using rig = await startRig(
      (_request, response) => (answer = () => response.end('at last')),
      {
        limits: impatient,
      },
    );
    const pending = rig.request({ path: '/VSITE/x' });
    await eventually(() => answer !== undefined, 'the site has the request');
    const asked = Date.now();
    await eventually(() => Date.now() - asked > 1_500, 'several time-outs pass');
    answer?.();
    assert.equal((await pending).body, 'at last');
  });
  it('give up a site that is silent for too long', async () => {
    await using rig = await startRig(() => undefined, { upstream: { idleSeconds: 0.3 } });
    assert.equal((await rig.request({ path: '/VSITE/x' })).status, 503);
  });
  it('give up a site that speaks no HTTP', async () => {
    const garbage = createTcpServer((socket: Socket) => {
      socket.on('error', () => undefined);
      socket.end('not http at all\r\n\r\n');
    }).listen(0, '127.0.0.1');
    await once(garbage, 'listening');
    const { port } = garbage.address() as AddressInfo;
    await using rig = await startRig(() => undefined, {
      sites: { ODD: `https://127.0.0.1:${port}` },
    });
    assert.equal((await rig.request({ path: '/ODD/x' })).status, 503);
    garbage.close();
  });
  it('send more requests than a site may have away', async () => {
    let release: (() => void) | undefined;
    await using rig = await startRig(
      (_request, response) => (release = () => response.end('done')),
      {
        upstream: { maxRequestsPerSite: 1 },
      },
    );
    const first = rig.request({ path: '/VSITE/x' });
    await eventually(() => release !== undefined, 'the site is busy');
    assert.equal((await rig.request({ path: '/VSITE/x' })).status, 503);
    release?.();
    assert.equal((await first).status, 200);
  });
  it('count a request no longer whose client is gone before its turn', async () => {
    let asked = 0;
    await using rig = await startRig(
      (request, response) => {
        asked++;
        if (request.url === '/last') response.end('x');
      },
      { upstream: { maxRequestsPerSite: 3 } },
    );
    const socket = await openTls(rig);
    // The second waits behind the first
    socket.write('GET /VSITE/x HTTP/1.1\r\nHost: h\r\n\r\n'.repeat(3));
    await eventually(() => asked === 3, 'the site has all of them');
    socket.destroy();
    await eventually(
      () => rig.lines.filter(({ msg }) => msg === 'request').length === 3,
      'they end',
    );
    assert.equal((await rig.request({ path: '/VSITE/last' })).status, 200);
  });
  it('refuse more connections than one client may have', async () => {
    await using rig = await startRig((_request, response) => response.end('x'), {
      limits: { connectionsPerClient: 2 },
    });
    const sockets = [await openTls(rig), await openTls(rig)];
    await assert.rejects(rig.request({ path: '/VSITE/x' }));
    sockets[0]!.destroy();
    const isServed = (): Promise<boolean> =>
      rig.request({ path: '/VSITE/x' }).then(
        ({ status }) => status === 200,
        () => false,
      );
    await eventually(isServed, 'there is room again');
    sockets[1]!.destroy();
  });

  // Where there is no connection, none is closed
  const behindSocket = rigDefaults.isLocal ? 'a site behind a socket only' : false;
  it('repeat a request that met a closed connection', { skip: behindSocket }, async () => {
    let connections = 0;
    await using rig = await startRig((request, response) => {
      // The second request on a connection finds it closed
      const { socket } = request as { socket: Socket & { used?: boolean } };
      if (socket.used) return void socket.destroy();
      connections++;
      socket.used = true;
      response.end(String(connections));
    });
    assert.equal((await rig.request({ path: '/VSITE/x' })).body, '1');
    assert.equal((await rig.request({ path: '/VSITE/x' })).body, '2');
    const post = await rig.request({ path: '/VSITE/x', method: 'POST', body: 'once only' });
    assert.equal(post.status, 503);
  });
});

describe('gateway start and end', () => {
  it('says which address is taken', async () => {
    const taken = createServer().listen(0, 'localhost');
    await once(taken, 'listening');
    const { port } = taken.address() as AddressInfo;
    await assert.rejects(
      startRig(() => undefined, { port }),
      (error: Error & { code: string }) => {
        assert.equal(error.code, 'ADDRESS_IN_USE');
        assert.match(error.message, new RegExp(`localhost:${port}`));
        return true;
      },
    );
    taken.close();
  });
  it('finishes what is under way, takes nothing new, and closes twice', async () => {
    let answer: (() => void) | undefined;
    await using rig = await startRig((request, response) => {
      if (request.url === '/slow') answer = () => response.end('done');
      else response.end('x');
    });
    const agent = new Agent({ keepAlive: true });
    await rig.request({ path: '/VSITE/x', agent });
    const pending = rig.request({ path: '/VSITE/slow' });
    await eventually(() => answer !== undefined, 'the request is under way');
    const closing = Promise.all([rig.gateway.close(), rig.gateway.close()]);
    await assert.rejects(rig.request({ path: '/VSITE/x' }), { code: 'ECONNREFUSED' });
    answer?.();
    const { body, headers } = await pending;
    assert.deepEqual([body, headers.connection], ['done', 'close']);
    await closing;
    await rig.gateway.close();
    agent.destroy();
  });
  it('does not wait for ever', async () => {
    let asked = false;
    await using rig = await startRig(() => (asked = true), { limits: { drainSeconds: 0.2 } });
    const pending = rig.request({ path: '/VSITE/x' });
    await eventually(() => asked, 'the request is under way');
    await Promise.all([rig.gateway.close(), assert.rejects(pending)]);
  });
});
