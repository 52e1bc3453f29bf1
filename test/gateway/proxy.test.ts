import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import type { IncomingMessage } from 'node:http';
import { request as httpsRequest } from 'node:https';
import { connect, type TLSSocket } from 'node:tls';
import { after, before, describe, it } from 'node:test';
import {
  createCa,
  issueCertificate,
  keyPem,
  type CertificateRequest,
} from '#kernel/security/ca.js';
import { createConsignorVerifier } from '#kernel/security/consignor.js';
import { formatDn } from '#kernel/security/dn.js';
import { createPrivateKey, X509Certificate } from 'node:crypto';
import { eventually, rigDefaults, startRig, type Rig } from './rig.js';

/** What the site saw. */
type Seen = { method: string; url: string; headers: Record<string, string>; body: string };

/** What no server of ours sends. */
const oddAnswers: Record<string, string> = {
  '/odd-upgrade': 'HTTP/1.1 101 Go\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n',
  '/odd-reason': 'HTTP/1.1 200 a\x01b\r\nContent-Length: 1\r\n\r\nx',
  '/odd-status': 'HTTP/1.1 042 x\r\nContent-Length: 1\r\n\r\nx',
  '/odd-length': 'HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nx',
  '/odd-nothing': '',
};

describe('gateway', () => {
  let rig: Rig;
  let latest: IncomingMessage | undefined;
  before(async () => {
    rig = await startRig((request, response) => {
      latest = request;
      if (request.url === '/die') {
        response.writeHead(200, { 'content-length': 1000 });
        response.write('half', () => response.destroy());
        return;
      }
      if (request.url === '/die-chunked') {
        response.write('half', () => response.destroy());
        return;
      }
      const odd = oddAnswers[request.url ?? ''];
      if (odd !== undefined) {
        request.socket.end(odd);
        return;
      }
      if (request.url === '/early') {
        response.writeHead(413).end('no more');
        return;
      }
      if (request.url === '/hang') return;
      if (request.url === '/until-close') {
        response.shouldKeepAlive = response.useChunkedEncodingByDefault = false;
        response.end(Buffer.alloc(20_000_000));
        return;
      }
      const chunks: Buffer[] = [];
      request.on('data', (chunk: Buffer) => chunks.push(chunk));
      request.on('end', () => {
        const { method, url, headers } = request;
        response.setHeader('X-Site', 'yes');
        response.setHeader('Set-Cookie', ['a=1', 'b=2']);
        response.setHeader('X-Frame-Options', 'ALLOW');
        response.statusCode = url === '/empty' ? 204 : 200;
        if (url === '/432') response.writeHead(432, 'Session gone');
        response.end(
          JSON.stringify({ method, url, headers, body: Buffer.concat(chunks).toString() }),
        );
      });
    });
  });
  after(() => rig[Symbol.asyncDispose]());

  const seen = async (options: Parameters<Rig['request']>[0]): Promise<Seen> => {
    const { status, body } = await rig.request(options);
    assert.equal(status, 200, body);
    return JSON.parse(body) as Seen;
  };
  const clientOf = async (request: Partial<CertificateRequest>, foreign = false) => {
    const { ca } = rig.credentials;
    const own = {
      key: createPrivateKey(await readFile(ca.keyFile)),
      certificate: new X509Certificate(await readFile(ca.certFile)),
    };
    const issuer = foreign ? await createCa('CN=VSite CA,O=VSite,C=EU') : own;
    const made = await issueCertificate(issuer, {
      subject: 'CN=Demo User,O=VSite,C=EU',
      usage: 'client',
      keyType: 'ec',
      ...request,
    });
    return { cert: made.certificate.toString(), key: keyPem(made.key) };
  };

  it('forwards to the site, whatever the case of its name, and tells it the address', async () => {
    const { url, headers } = await seen({ path: '/vsite/rest//core/?a=%2F' });
    assert.equal(url, '/rest/core?a=%2F');
    assert.equal(headers['x-unicore-gateway'], `https://localhost:${rig.port}/VSITE`);
    assert.match(headers['x-unicore-consignor-ip']!, /^(127\.0\.0\.1|::1)$/);
    assert.match(headers['x-request-id']!, /^[\w-]{36}$/);
  });
  for (const method of ['GET', 'POST', 'PUT', 'DELETE', 'OPTIONS'])
    it(`forwards ${method} with and without a body`, async () => {
      assert.equal((await seen({ path: '/VSITE/x', method, body: 'text' })).body, 'text');
      const empty = await seen({ path: '/VSITE/x', method, headers: { 'content-length': 0 } });
      assert.deepEqual([empty.method, empty.body], [method, '']);
    });
  it('forwards a chunked body', async () => {
    const headers = { 'transfer-encoding': 'chunked' };
    assert.equal(
      (await seen({ path: '/VSITE/x', method: 'PUT', headers, body: 'chunks' })).body,
      'chunks',
    );
  });
  it('returns status, text and headers as the site set them, with its own in place', async () => {
    const { status, headers } = await rig.request({ path: '/VSITE/432' });
    assert.equal(status, 432);
    assert.equal(headers['x-site'], 'yes');
    assert.deepEqual(headers['set-cookie'], ['a=1', 'b=2']);
    assert.equal(headers['x-frame-options'], 'DENY');
    assert.equal((await rig.request({ path: '/VSITE/empty' })).status, 204);
    const head = await rig.request({ path: '/VSITE/x', method: 'HEAD' });
    assert.deepEqual([head.status, head.body], [200, '']);
  });

  it('names the owner of a client certificate, signed', async () => {
    const { headers } = await seen({ path: '/VSITE/x', ...rig.asUser });
    const dn = createConsignorVerifier([rig.signer])(headers['x-unicore-consignor']!);
    assert.equal(formatDn(dn), 'CN=Demo User,O=VSite,C=EU');
  });
  it('lets no client say who it is', async () => {
    const headers = {
      'X-UNICORE-Consignor': 'DN="CN=Root";DSIG=abcd',
      'x-unicore-CONSIGNOR-ip': '192.0.2.1',
      'X-UNICORE-Gateway': 'https://evil/VSITE',
      'X-Forwarded-For': '192.0.2.1',
      'X-Forwarded-Host': 'evil',
      'X-Request-Id': 'evil',
      Connection: 'x-unicore-consignor-ip, x-unicore-gateway',
    };
    const plain = await seen({ path: '/VSITE/x', headers });
    assert.doesNotMatch(JSON.stringify(plain.headers), /evil|192\.0\.2\.1|Root|forwarded/);
    assert.equal(plain.headers['x-unicore-consignor'], undefined);
    assert.ok(plain.headers['x-unicore-consignor-ip']);
    assert.ok(plain.headers['x-unicore-gateway']);
    const known = await seen({ path: '/VSITE/x', headers, ...rig.asUser });
    assert.match(known.headers['x-unicore-consignor']!, /^DN="CN=Demo User,O=VSite,C=EU";DSIG=/);
  });
  const badCertificates = [
    ['of another authority with the same name', {}, true],
    ['that has expired', { validDays: -1 }, false],
    ['that may only sign others', { usage: 'ca' }, true],
  ] as const;
  for (const [what, request, foreign] of badCertificates)
    it(`refuses a certificate ${what}`, async () => {
      latest = undefined;
      const client = await clientOf(request, foreign);
      const { status, body } = await rig.request({ path: '/VSITE/x', ...client });
      assert.equal(status, 403);
      assert.match(
        (JSON.parse(body) as { errorMessage: string }).errorMessage,
        /client certificate/,
      );
      assert.equal(latest, undefined);
    });
  it('asks for the certificate again when a TLS session is resumed', async () => {
    const options = { host: 'localhost', port: rig.port, ca: rig.ca, ...rig.asUser };
    const first = connect(options);
    const [session] = (await once(first, 'session')) as [Buffer];
    first.destroy();
    const { headers } = await seen({ path: '/VSITE/x', session, ...rig.asUser });
    assert.match(headers['x-unicore-consignor']!, /Demo User/);
    const bare = connect({ host: 'localhost', port: rig.port, ca: rig.ca });
    const [anonymous] = (await once(bare, 'session')) as [Buffer];
    bare.destroy();
    const resumed = await seen({ path: '/VSITE/x', session: anonymous });
    assert.equal(resumed.headers['x-unicore-consignor'], undefined);
  });

  it('says 404 for an unknown site and 503 for one that is down', async () => {
    const unknown = await rig.request({ path: '/nix/rest/core' });
    assert.deepEqual(
      [unknown.status, JSON.parse(unknown.body)],
      [404, { errorMessage: 'no such site', status: 404 }],
    );
    const down = await rig.request({
      path: '/DOWN/x',
      method: 'POST',
      body: 'x'.repeat(1_000_000),
    });
    assert.equal(down.status, 503);
    assert.equal((JSON.parse(down.body) as { status: number }).status, 503);
  });

  it('cuts an answer off when the site dies in the middle of it', async () => {
    for (const path of ['/VSITE/die', '/VSITE/die-chunked'])
      await assert.rejects(rig.request({ path }), { code: 'ECONNRESET' });
    assert.equal((await rig.request({ path: '/VSITE/x' })).status, 200);
  });
  // There is nothing to read where nothing is written down
  for (const path of Object.keys(rigDefaults.isLocal ? {} : oddAnswers))
    it(`says 503 when a site answers as ${path}`, async () => {
      assert.equal((await rig.request({ path: `/VSITE${path}` })).status, 503);
    });
  it('delivers all of an answer that ends with the connection to the site', async () => {
    const { body } = await rig.request({ path: '/VSITE/until-close' });
    assert.equal(body.length, 20_000_000);
  });
  it('lets the site know when the client leaves', async () => {
    for (const method of ['GET', 'POST']) {
      const headers = method === 'POST' ? { 'content-length': 100 } : {};
      const { port, ca } = rig;
      const path = '/VSITE/hang';
      const request = httpsRequest({
        host: 'localhost',
        port,
        ca,
        path,
        method,
        headers,
        agent: false,
      });
      request.on('error', () => undefined);
      latest = undefined;
      if (method === 'POST') request.write('begin');
      else request.end();
      await eventually(() => latest?.url === '/hang', 'the site has the request');
      const { socket } = latest as unknown as IncomingMessage;
      request.destroy();
      await eventually(() => socket.destroyed, 'the site lost its client');
    }
  });
  it('passes 100 Continue on, and an answer instead of it', async () => {
    const { port, ca } = rig;
    const expect = (path: string) =>
      httpsRequest({
        ...{ host: 'localhost', port, ca, path, method: 'PUT', agent: false },
        headers: { Expect: '100-continue', 'Content-Length': 4 },
      });
    const willing = expect('/VSITE/x');
    willing.flushHeaders();
    await once(willing, 'continue');
    willing.end('body');
    const [answer] = (await once(willing, 'response')) as [IncomingMessage];
    assert.equal(answer.statusCode, 200);
    answer.resume();
  });
  it('delivers an answer that comes before the body was sent', async () => {
    const { status, body } = await rig.request({
      path: '/VSITE/early',
      method: 'PUT',
      body: Buffer.alloc(5_000_000),
    });
    assert.deepEqual([status, body], [413, 'no more']);
  });

  it('shows its sites', async () => {
    const page = await rig.request({ path: '/', headers: { Accept: 'text/html,*/*' } });
    assert.match(page.headers['content-type']!, /^text\/html/);
    assert.match(page.body, /VSITE<\/td><td class="up">/);
    assert.match(page.body, /DOWN<\/td><td class="down">/);
    const json = await rig.request({ path: '/', headers: { Accept: 'application/json' } });
    const { sites } = JSON.parse(json.body) as { sites: { name: string; status: string }[] };
    assert.deepEqual(
      sites.map(({ name, status }) => [name, status]),
      [
        ['VSITE', 'OK'],
        ['DOWN', 'down'],
      ],
    );
    assert.doesNotMatch(page.body + json.body, /site\.sock/);
  });
  it('shows nobody its sites, if so configured', async () => {
    await rig.reconfigure({ frontPage: 'bare' });
    const page = await rig.request({ path: '/', headers: { Accept: 'text/html' } });
    assert.match(page.body, /<h1>UNICORE gateway<\/h1>/);
    const json = await rig.request({ path: '/', headers: { Accept: 'application/json' } });
    assert.deepEqual([page.status, json.status, json.body], [200, 200, '{"sites":[]}']);
    assert.doesNotMatch(page.body, /VSITE|DOWN|<table>/);
    assert.equal((await rig.request({ path: '/VSITE/x' })).status, 200, 'they are there');
    await rig.reconfigure({});
  });
  it('logs each request without its secrets', async () => {
    const headers = { Authorization: 'Basic zzpwd' };
    // However the site's routes may come to see it, and whoever refuses it
    for (const path of [
      '/VSITE/rest//files/zzcap',
      '/VSITE/rest/./access/zzcap',
      '/VSITE/rest/x/../files/zzcap',
      '/VSITE/rest/%66iles/zzcap',
      '/VSITE/REST/Files/zzcap',
      '/DOWN/rest/files/zzcap',
      '/NONE/rest/files/zzcap?token=zztok',
      '/VSITE/../rest/files/zzcap?token=zztok',
      `https://localhost/VSITE/rest/files/zzcap?token=zztok`,
    ])
      await rig.request({ path, headers });
    for (const Upgrade of ['h2c', 'websocket'])
      await rig.request({
        path: '/DOWN/rest/files/zzcap?token=zztok',
        headers: { ...headers, Connection: 'Upgrade', Upgrade },
      });
    await rig.request({ path: '/VSITE/rest/files/zzcap?token=zztok', ...rig.asUser, headers });
    const line = rig.lines.findLast(({ msg }) => msg === 'request');
    assert.ok(line);
    for (const name of ['reqId', 'peer', 'ms', 'bytes']) assert.ok(line[name], name);
    assert.deepEqual(
      [line['dn'], line['status'], line['vsite']],
      ['CN=Demo User,O=VSite,C=EU', 200, 'VSITE'],
    );
    assert.doesNotMatch(JSON.stringify(rig.lines), /zz(?:cap|tok|pwd)/);
  });
  it('speaks TLS 1.2 and 1.3, nothing older', async () => {
    const handshake = (version: 'TLSv1.1' | 'TLSv1.2' | 'TLSv1.3') =>
      new Promise<string | null>((resolve) => {
        const range = {
          minVersion: version,
          maxVersion: version,
          ciphers: 'DEFAULT@SECLEVEL=0',
        } as const;
        const socket: TLSSocket = connect(
          { host: 'localhost', port: rig.port, ca: rig.ca, ...range },
          () => {
            resolve(socket.getProtocol());
            socket.destroy();
          },
        );
        socket.on('error', () => resolve(null));
      });
    assert.equal(await handshake('TLSv1.3'), 'TLSv1.3');
    assert.equal(await handshake('TLSv1.2'), 'TLSv1.2');
    assert.equal(await handshake('TLSv1.1'), null);
  });
  for (const ciphers of [
    'AES128-GCM-SHA256',
    'ECDHE-ECDSA-AES128-SHA256',
    'DHE-RSA-AES128-GCM-SHA256',
    'aNULL',
  ])
    it(`speaks no ${ciphers}`, async () => {
      const { port, ca } = rig;
      const options = { host: 'localhost', port, ca, maxVersion: 'TLSv1.2' } as const;
      const socket = connect({ ...options, ciphers: `${ciphers}:@SECLEVEL=0` });
      await assert.rejects(once(socket, 'secureConnect'), { code: /HANDSHAKE_FAILURE|NO_SHARED/ });
    });
});
