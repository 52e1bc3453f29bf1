import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdir, symlink, writeFile } from 'node:fs/promises';
import { request as httpRequest, type IncomingMessage } from 'node:http';
import { request as httpsRequest } from 'node:https';
import { once } from 'node:events';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { promisify } from 'node:util';
import { GatewayConfig } from '#gateway/main.js';
import { eventually, openTls, startRig, type Asked, type Rig } from './rig.js';

const run = promisify(execFile);
type Headers = Record<string, string>;

/** Answers with the headers it got. */
const startEcho = (options: Parameters<typeof startRig>[1]) =>
  startRig((request, response) => {
    request.resume();
    response.setHeader('Access-Control-Allow-Origin', 'https://site.example');
    response.setHeader('Access-Control-Allow-Credentials', 'true');
    request.on('end', () => response.end(JSON.stringify(request.headers)));
  }, options);
const seenBy = async (rig: Rig, options: Asked): Promise<Headers> =>
  JSON.parse((await rig.request({ path: '/VSITE/x', ...options })).body) as Headers;

describe('a proxy before the gateway', () => {
  const forwarded = {
    'X-Forwarded-For': '203.0.113.7, 198.51.100.1, 10.1.2.3',
    'X-Forwarded-Host': 'grid.example',
    'X-Forwarded-Proto': 'https',
  };
  it('is believed where it is listed: the last address that is not a proxy of ours', async () => {
    await using rig = await startEcho({ proxies: ['127.0.0.1', '::1', '10.0.0.0/8'] });
    const seen = await seenBy(rig, { headers: forwarded, ...rig.asUser });
    assert.equal(seen['x-unicore-consignor-ip'], '198.51.100.1');
    assert.equal(seen['x-unicore-gateway'], 'https://grid.example/VSITE');
    assert.equal(seen['x-forwarded-for'], undefined);
    // The certificate is the proxy's, not its client's
    assert.equal(seen['x-unicore-consignor'], undefined);
    assert.equal(rig.lines.findLast(({ msg }) => msg === 'request')?.['peer'], '198.51.100.1');
  });
  const odd = [
    ['unknown', /^(127\.0\.0\.1|::1)$/],
    ['203.0.113.7, ', /^(127\.0\.0\.1|::1)$/],
    ['evil"; x=, 203.0.113.7', /^203\.0\.113\.7$/],
    ['10.9.9.9', /^10\.9\.9\.9$/],
    ['2001:db8::1', /^2001:db8::1$/],
  ] as const;
  for (const [value, expected] of odd)
    it(`that says "${value}" is believed as far as it makes sense`, async () => {
      await using rig = await startEcho({ proxies: ['127.0.0.1', '::1', '10.0.0.0/8'] });
      const headers = { 'X-Forwarded-For': value, 'X-Forwarded-Host': 'a b"' };
      const seen = await seenBy(rig, { headers });
      assert.match(seen['x-unicore-consignor-ip']!, expected);
      assert.match(seen['x-unicore-gateway']!, /^https:\/\/localhost:\d+\/VSITE$/);
    });
  it('is nobody where it is not listed', async () => {
    await using rig = await startEcho({ proxies: ['10.0.0.0/8'] });
    const seen = await seenBy(rig, { headers: forwarded });
    assert.match(seen['x-unicore-consignor-ip']!, /^(127\.0\.0\.1|::1)$/);
    assert.match(seen['x-unicore-gateway']!, /^https:\/\/localhost:\d+\/VSITE$/);
  });
  it('may have more connections than a client', async () => {
    const limits = { connectionsPerClient: 1 };
    await using rig = await startEcho({ proxies: ['127.0.0.1', '::1'], limits });
    const held = [await openTls(rig), await openTls(rig)];
    assert.equal((await rig.request({ path: '/VSITE/x' })).status, 200);
    for (const socket of held) {
      assert.equal(socket.destroyed, false);
      socket.destroy();
    }
  });
  it('is given as address or network', () => {
    for (const text of ['10.0.0.0/33', 'proxy.example', '10.0.0.0/', '10/8', '::1/200']) {
      const { success } = GatewayConfig.shape.proxies.safeParse([text]);
      assert.equal(success, false, text);
    }
  });
});

describe('pages of other origins', () => {
  let rig: Rig;
  before(async () => {
    rig = await startEcho({ cors: { origins: ['https://portal.example'] } });
  });
  after(() => rig[Symbol.asyncDispose]());
  const portal = { Origin: 'https://portal.example' };
  const preflight = { method: 'OPTIONS', path: '/VSITE/x' };
  const wants = {
    'Access-Control-Request-Method': 'PUT',
    'Access-Control-Request-Headers': 'authorization',
  };

  it('are told what they may, without the site', async () => {
    const { status, headers } = await rig.request({
      ...preflight,
      headers: { ...portal, ...wants },
    });
    assert.equal(status, 204);
    assert.equal(headers['access-control-allow-origin'], 'https://portal.example');
    assert.match(headers['access-control-allow-methods']!, /PUT/);
    assert.equal(headers['access-control-allow-headers'], 'authorization');
    assert.match(headers.vary!, /Origin/);
  });
  it('may read answers and errors, and what the site says of it does not count', async () => {
    for (const path of ['/VSITE/x', '/NONE/x', '/DOWN/x', '/VSITE/../y']) {
      const { headers } = await rig.request({ path, headers: portal });
      assert.equal(headers['access-control-allow-origin'], 'https://portal.example', path);
      assert.match(headers['access-control-expose-headers']!, /X-UNICORE-SecuritySession/);
      assert.equal(headers['access-control-allow-credentials'], undefined);
    }
  });
  it('may nothing if they are not listed', async () => {
    for (const Origin of ['https://evil.example', 'https://portal.example.evil', 'null']) {
      const plain = await rig.request({ path: '/VSITE/x', headers: { Origin } });
      const asked = await rig.request({ ...preflight, headers: { Origin, ...wants } });
      for (const { headers } of [plain, asked])
        assert.equal(headers['access-control-allow-origin'], undefined);
    }
  });
  const evil = { Origin: 'https://evil.example', 'Sec-Fetch-Site': 'cross-site' };
  const json = { 'Content-Type': 'application/json' };
  it('change nothing unless they are listed; the site is not told of those that are', async () => {
    let reached = 0;
    const count = (): number => ++reached;
    rig.upstream.on('request', count);
    for (const method of ['POST', 'PUT', 'DELETE'])
      for (const headers of [evil, { Origin: 'null' }, { 'Sec-Fetch-Site': 'same-site' }]) {
        const { status, body } = await rig.request({ method, path: '/VSITE/x', headers });
        assert.equal(status, 403, method);
        assert.match(body, /pages of .* may not change anything here/);
      }
    assert.equal(reached, 0, 'the site saw one of them');
    rig.upstream.off('request', count);
    const refused = rig.lines.findLast(({ msg }) => msg === 'refused');
    assert.match(String(refused?.['reason']), /another site/);
    const headers = { ...portal, 'Sec-Fetch-Site': 'cross-site' };
    const seen = await seenBy(rig, { method: 'POST', headers });
    assert.deepEqual([seen['origin'], seen['sec-fetch-site']], [undefined, undefined]);
    const read = await seenBy(rig, { headers });
    assert.equal(read['origin'], portal.Origin);
  });
  it('change what they like if they are from here, as do programs', async () => {
    for (const headers of [{ Origin: `https://localhost:${rig.port}` }, json, {}]) {
      const { status } = await rig.request({ method: 'POST', path: '/VSITE/x', headers });
      assert.equal(status, 200);
    }
  });
  it('of any origin change only what browsers ask about first, if all are listed by *', async () => {
    await using open = await startEcho({ cors: { origins: ['*'] } });
    const ask = async (method: string, headers: Headers): Promise<number> =>
      (await open.request({ method, path: '/VSITE/x', headers: { ...evil, ...headers } })).status;
    for (const type of ['text/plain', 'application/x-www-form-urlencoded;charset=utf-8'])
      assert.equal(await ask('POST', { 'Content-Type': type }), 403, type);
    assert.equal(await ask('POST', {}), 403);
    assert.equal(await ask('POST', { Authorization: 'Basic eDp5' }), 403);
    assert.equal(await ask('POST', { Authorization: 'Bearer eDp5' }), 200);
    assert.equal(await ask('POST', json), 200);
    assert.equal(await ask('DELETE', {}), 200);
  });
  it("are the sites' own business unless configured", async () => {
    await using other = await startEcho({});
    const { headers } = await other.request({ path: '/VSITE/x', headers: portal });
    assert.equal(headers['access-control-allow-origin'], 'https://site.example');
  });
});

describe('ACME tokens', () => {
  it('are served by HTTPS and plain HTTP, and nothing else is', async () => {
    await using rig = await startRig(() => undefined);
    const tokenDir = join(rig.directory, 'acme');
    await mkdir(tokenDir);
    await writeFile(join(tokenDir, 'to-ken_1'), 'to-ken_1.thumbprint');
    await writeFile(join(rig.directory, 'secret'), 'secret');
    await symlink(join(rig.directory, 'secret'), join(tokenDir, 'link'));
    await using both = await startRig(() => undefined, { acme: { tokenDir, httpPort: 0 } });
    const plain = `http://localhost:${both.gateway.acmePort}`;
    const at = '/.well-known/acme-challenge';
    const { stdout } = await run('curl', ['-sS', `${plain}${at}/to-ken_1`]);
    assert.equal(stdout, 'to-ken_1.thumbprint');
    const { status, body } = await both.request({ path: `${at}/to-ken_1` });
    assert.deepEqual([status, body], [200, 'to-ken_1.thumbprint']);
    for (const path of [
      `${at}/none`,
      `${at}/link`,
      `${at}/..%2Fsecret`,
      `${at}/../../secret`,
      '/',
      '/VSITE/x',
    ]) {
      const asked = httpRequest(`${plain}${path}`).end();
      const [answer] = (await once(asked, 'response')) as [IncomingMessage];
      answer.resume();
      assert.equal(answer.statusCode, 404, path);
      if (path !== '/' && path !== '/VSITE/x')
        assert.match(String((await both.request({ path })).status), /^40[04]$/, path);
    }
    assert.equal((await rig.request({ path: `${at}/to-ken_1` })).status, 404);
  });
});

describe('limits by route', () => {
  const routes = [
    { path: '/rest/core/storages' },
    { site: 'DOWN', path: '/', bodyBytes: 1 },
    { path: '/slow', seconds: 0.3 },
    { path: '/', bodyBytes: 1_000 },
  ];
  let rig: Rig;
  let received = 0;
  before(async () => {
    rig = await startRig(
      (request, response) => {
        received = 0;
        if (request.url === '/slow/start') response.write('begin');
        request.on('data', (chunk: Buffer) => (received += chunk.length));
        request.on('end', () => {
          if (!request.url!.startsWith('/slow')) response.end(String(received));
        });
      },
      { routes },
    );
  });
  after(() => rig[Symbol.asyncDispose]());
  const put = (path: string, size: number, headers = {}) =>
    rig.request({ path, method: 'PUT', headers, body: Buffer.alloc(size) });

  const cases = [
    ['/VSITE/rest/core/jobs', 1_000, 200],
    ['/VSITE/rest/core/jobs', 1_001, 413],
    ['/VSITE/rest/core/storages/s/files/f', 100_000, 200],
    ['/VSITE/rest/core/storages', 100_000, 200],
    ['/VSITE/rest/core/storagesx', 100_000, 413],
    ['/VSITE/rest/core/j%6Fbs', 100_000, 413],
    ['/VSITE/rest/core/storages/../jobs', 100_000, 413],
    ['/DOWN/x', 2, 413],
  ] as const;
  for (const [path, size, status] of cases)
    it(`${path} with ${size} bytes is ${status}`, async () => {
      const answer = await put(path, size);
      assert.equal(answer.status, status);
    });
  it('count chunks, too', async () => {
    const chunked = { 'transfer-encoding': 'chunked' };
    assert.equal((await put('/VSITE/rest/core/jobs', 900, chunked)).body, '900');
    const { status } = await put('/VSITE/rest/core/jobs', 2_000_000, chunked);
    assert.equal(status, 413);
  });
  it('say that a body is too long before it is sent', async () => {
    const { port, ca } = rig;
    const asked = httpsRequest({
      ...{ host: 'localhost', port, ca, path: '/VSITE/x', method: 'PUT', agent: false },
      headers: { Expect: '100-continue', 'Content-Length': 5_000 },
    });
    asked.on('error', () => undefined).flushHeaders();
    let continued = false;
    asked.on('continue', () => (continued = true));
    const [answer] = (await once(asked, 'response')) as [IncomingMessage];
    assert.deepEqual([answer.statusCode, continued], [413, false]);
    asked.destroy();
  });
  it('end a request that takes too long, in the middle if need be', async () => {
    const { status, body } = await rig.request({ path: '/VSITE/slow' });
    assert.equal(status, 503);
    assert.match(body, /0\.3 seconds/);
    await assert.rejects(rig.request({ path: '/VSITE/slow/start' }), { code: 'ECONNRESET' });
    await eventually(
      () => rig.lines.some(({ msg }) => msg === 'request took too long'),
      'it is in the log',
    );
  });
});
