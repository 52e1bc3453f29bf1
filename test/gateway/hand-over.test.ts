import assert from 'node:assert/strict';
import { once } from 'node:events';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { Readable } from 'node:stream';
import { text as readText } from 'node:stream/consumers';
import { pipeline } from 'node:stream/promises';
import { after, before, describe, it } from 'node:test';
import { z } from 'zod';
import { errorText } from '#kernel/errors.js';
import { everybody, operations } from '#kernel/http/operation.js';
import { json, stream } from '#kernel/http/reply.js';
import { createRestApp, mount } from '#kernel/http/router.js';
import { createLog, silentLog } from '#kernel/log.js';
import { eventually, openTls, rigDefaults, startRig, type Rig } from './rig.js';

/** What the gateway leaves to a service of its process, and what not. */
describe('a service that is handed the client’s own request and answer', () => {
  rigDefaults.isLocal = true;
  let rig: Rig;
  let answer: (request: IncomingMessage, response: ServerResponse) => void;
  before(async () => {
    rig = await startRig((request, response) => answer(request, response), {
      routes: [
        { path: '/short', seconds: 0.2, bodyBytes: 10 },
        { path: '/bounded', bodyBytes: 10 },
        { path: '/timed', seconds: 60, bodyBytes: 10_000_000 },
      ],
      cors: { origins: ['https://portal.example'] },
    });
  });
  after(() => rig[Symbol.asyncDispose]());

  const ways: Record<string, (response: ServerResponse) => void> = {
    'set one by one': (response) => {
      response.setHeader('Connection', 'close');
      response.setHeader('X-Frame-Options', 'ALLOW');
      response.setHeader('X-Request-Id', 'mine');
      response.setHeader('Access-Control-Allow-Origin', '*');
      response.setHeader('Vary', 'Accept');
      response.setHeader('X-Own', ['a', 'b']);
      response.end('x');
    },
    'in a list': (response) => {
      const cors = ['access-control-allow-origin', '*', 'Vary', 'Accept'];
      const own = ['X-Own', 'a', 'X-Own', 'b', 'x-frame-options', 'ALLOW', 'x-request-id', 'mine'];
      response.writeHead(200, ['connection', 'close', ...cors, ...own]).end('x');
    },
    'in an object': (response) => {
      response.setHeader('x-own', 'before');
      const headers = { Connection: 'close', 'X-Frame-Options': 'ALLOW', 'X-Request-Id': 'mine' };
      const cors = { 'Access-Control-Allow-Origin': '*', Vary: 'Accept' };
      response.writeHead(200, 'Fine', { ...headers, ...cors, 'X-Own': ['a', 'b'] }).end('x');
    },
  };
  for (const [how, send] of Object.entries(ways))
    it(`sends the headers that it may, the gateway’s own besides: ${how}`, async () => {
      answer = (_request, response) => send(response);
      const origin = 'https://portal.example';
      const { headers, body } = await rig.request({ path: '/VSITE/x', headers: { origin, connection: 'keep-alive' } }); // prettier-ignore
      assert.equal(body, 'x');
      assert.deepEqual(
        [headers['x-own'], headers['x-frame-options'], headers.vary, headers.connection],
        ['a, b', 'DENY', 'Accept, Origin', 'keep-alive'],
      );
      assert.match(String(headers['x-request-id']), /^[\w-]{36}$/);
      assert.equal(headers['access-control-allow-origin'], origin);
    });

  it('is answered for when it takes too long, and is not heard any more', async () => {
    let late: ServerResponse | undefined;
    answer = (_request, response) => (late = response.setHeader('x-own', 'half'));
    const { status, headers, body } = await rig.request({ path: '/VSITE/short' });
    assert.equal(status, 503);
    assert.match(body, /not finished within 0.2 seconds/);
    assert.equal(headers['x-own'], undefined);
    assert.ok(late);
    late.setHeader('x', 'y').writeHead(200).end('late');
    late.destroy();
    assert.equal((await rig.request({ path: '/DOWN/x' })).status, 503);
  });
  it('is answered for when it gives up without a word', async () => {
    answer = (_request, response) => response.destroy(new Error('no'));
    assert.equal((await rig.request({ path: '/VSITE/x' })).status, 503);
    // A stream that fails at once does the same
    answer = (_request, response) =>
      void pipeline(new Readable({ read: (): void => void 0 }).destroy(), response).catch(() => 0);
    assert.equal((await rig.request({ path: '/VSITE/x' })).status, 503);
  });
  it('is not asked for the rest of a body that it has refused', async () => {
    answer = (_request, response) => response.writeHead(413).end('no more');
    const socket = await openTls(rig);
    const lines: string[] = [];
    socket.on('data', (data: Buffer) => lines.push(data.toString()));
    socket.write('PUT /VSITE/x HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n'); // prettier-ignore
    // Our rig tells it to send; the gateway passes that on before the answer
    await eventually(() => lines.join('').includes('no more'), 'it is answered');
    assert.match(lines.join(''), /^HTTP\/1.1 100 Continue\r\n\r\nHTTP\/1.1 413/);
    socket.destroy();
  });
  it('gets a body that has to be counted by the socket, where it is cut off at the limit', async () => {
    let read = 0;
    answer = (request, response) => {
      request.on('data', (chunk: Buffer) => (read += chunk.length));
      request.on('end', () => response.end());
    };
    const headers = { 'transfer-encoding': 'chunked' };
    const asked = { path: '/VSITE/short', method: 'PUT', headers } as const;
    assert.equal((await rig.request({ ...asked, body: 'x'.repeat(100_000) })).status, 413);
    assert.ok(read < 100_000);
    assert.equal((await rig.request({ ...asked, body: 'short' })).status, 200);
  });
  it('gets a body itself that says how long it is, if that is within the bound', async () => {
    let seen: unknown;
    answer = (request, response) =>
      void readText(request).then((body) => {
        seen = ['encrypted' in request.socket, body];
        response.end();
      });
    const asked = { path: '/VSITE/bounded', method: 'POST' } as const;
    const headers = { 'content-length': '5' };
    assert.equal((await rig.request({ ...asked, headers, body: 'short' })).status, 200);
    assert.deepEqual(seen, [true, 'short']);
    const tooLong = { 'content-length': '11' };
    assert.equal((await rig.request({ ...asked, headers: tooLong, body: 'x'.repeat(11) })).status, 413); // prettier-ignore
  });
  it('gets a document itself whose time is limited, and no body that takes long', async () => {
    let isHanded: unknown;
    answer = (request, response) => {
      isHanded = 'encrypted' in request.socket;
      request.resume().on('end', () => response.end());
    };
    for (const [size, expected] of [
      [1_000_000, true],
      [2_000_000, false],
    ] as const) {
      const asked = { path: '/VSITE/timed', method: 'POST', body: Buffer.alloc(size) };
      assert.equal((await rig.request(asked)).status, 200);
      assert.equal(isHanded, expected, `${size} bytes`);
    }
  });
  it('gets no end of a body when its client has been told that time is up', async () => {
    let read: Promise<string> | undefined;
    answer = (request) => {
      read = readText(request).catch((error: unknown) => errorText(error));
    };
    const socket = await openTls(rig);
    socket.write('POST /VSITE/short HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nsho');
    const said = await readText(socket);
    assert.match(said, /^HTTP\/1\.1 503 [^]*not finished within 0\.2 seconds/);
    assert.match(await read!, /premature close|aborted/i);
  });
  it('has its bytes counted in the log', async () => {
    answer = (_request, response) => {
      response.write('äb');
      response.end(Buffer.from('cd'));
    };
    await rig.request({ path: '/VSITE/counted' });
    await eventually(
      () => rig.lines.some(({ path, bytes, whole }) => path === '/VSITE/counted' && bytes === 5 && whole === true), // prettier-ignore
      'the line is there',
    );
  });
});

describe('a REST service whose gateway would wait no longer', () => {
  const operation = operations<{ gate: Promise<void>; seen: AbortSignal[] }>();
  const input = z.strictObject({});
  it('hears of it, and what it says afterwards is no error of its own', async () => {
    rigDefaults.isLocal = true;
    const lines: string[] = [];
    const log = createLog({ stream: { write: (line: string) => lines.push(line) } });
    const seen: AbortSignal[] = [];
    let open: () => void = () => undefined;
    const gate = new Promise<void>((resolve) => (open = resolve));
    const body = Readable.from([Buffer.from('late')]);
    const slow = (path: string, reply: () => ReturnType<typeof json>) =>
      operation({
        ...{ method: 'GET', path, summary: 'Waits', input, policy: everybody },
        run: async (deps, _input, { signal }) => {
          deps.seen.push(signal);
          await deps.gate;
          return reply();
        },
      });
    const app = createRestApp({
      mounts: [mount('', [slow('/a', () => json({})), slow('/b', () => stream(body))], { gate, seen })], // prettier-ignore
      ...{ authenticate: () => ({ dn: 'CN=a', role: 'user' }), externalUrl: 'https://h/V', log },
    });
    const routes = [{ path: '/', seconds: 0.2 }];
    await using rig = await startRig(app, { routes, log: silentLog });
    const asked = ['/VSITE/a', '/VSITE/b'].map((path) => rig.request({ path }));
    assert.deepEqual((await Promise.all(asked)).map(({ status }) => status), [503, 503]); // prettier-ignore
    await eventually(() => seen.every(({ aborted }) => aborted), 'both are told');
    const closed = once(body, 'close');
    open();
    await closed;
    assert.doesNotMatch(lines.join(''), /"level":50/);
  });
});
