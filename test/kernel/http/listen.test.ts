import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, stat, writeFile } from 'node:fs/promises';
import type { RequestListener } from 'node:http';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { after, before, describe, it } from 'node:test';
import { createHttpClient } from '#kernel/http/client.js';
import { listen } from '#kernel/http/listen.js';
import { Scope } from '#kernel/scope.js';
import { createCa, issueCertificate, keyPem } from '#kernel/security/ca.js';

const sayHello: RequestListener = (_request, response) => response.end('{"hello":true}');

describe('listening', () => {
  let directory: string;
  before(async () => (directory = await mkdtemp(join(tmpdir(), 'listen-'))));
  after(() => rm(directory, { recursive: true }));

  it('on a port that is taken names the address', async () => {
    await using scope = new Scope();
    const { port } = await listen(sayHello, { host: '127.0.0.1', port: 0 }, scope);
    await assert.rejects(listen(sayHello, { host: '127.0.0.1', port: port! }, scope), {
      code: 'ADDRESS_IN_USE',
      details: { address: `127.0.0.1:${port}` },
    });
  });

  it('on an address that is not ours is a wrong configuration', async () => {
    await using scope = new Scope();
    await assert.rejects(listen(sayHello, { host: '192.0.2.1', port: 0 }, scope), {
      code: 'CONFIG_INVALID',
    });
  });

  it('on a unix socket lets only us in, and removes it at the end', async () => {
    const unix = join(directory, 'private');
    const scope = new Scope();
    await listen(sayHello, { unix }, scope);
    assert.equal((await stat(unix)).mode & 0o777, 0o600);
    await using client = createHttpClient({ baseUrl: 'http://x', socketPath: unix });
    assert.deepEqual((await client.json('GET', '/')).body, { hello: true });
    await scope.close();
    await scope.close();
    await assert.rejects(stat(unix), { code: 'ENOENT' });
  });

  it('takes the place of a socket whose server was killed', async () => {
    const unix = join(directory, 'stale');
    const program = `require('net').createServer().listen(${JSON.stringify(unix)}, () => console.log('up'))`;
    const server = spawn(process.execPath, ['-e', program], {
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    await once(server.stdout, 'data');
    server.kill('SIGKILL');
    await once(server, 'exit');
    assert.ok((await stat(unix)).isSocket());
    await using scope = new Scope();
    await listen(sayHello, { unix }, scope);
  });

  it('takes the place neither of a living server nor of a file', async () => {
    await using scope = new Scope();
    const unix = join(directory, 'alive');
    await listen(sayHello, { unix }, scope);
    await assert.rejects(listen(sayHello, { unix }, scope), { code: 'ADDRESS_IN_USE' });
    const file = join(directory, 'file');
    await writeFile(file, 'precious');
    await assert.rejects(listen(sayHello, { unix: file }, scope), { code: 'CONFIG_INVALID' });
    assert.ok((await stat(file)).isFile());
  });

  it('ends with the answers under way given, idle connections closed', async () => {
    const scope = new Scope();
    let finish = (): void => undefined;
    const asked = new Promise<void>((resolve) => {
      void listen(
        (_request, response) => {
          finish = () => void response.end('done');
          resolve();
        },
        { unix: join(directory, 'draining') },
        scope,
      ).then(() => {
        const idle = connect(join(directory, 'draining'));
        idle.on('error', () => undefined);
      });
    });
    await until(async () => (await stat(join(directory, 'draining'))).isSocket());
    const client = createHttpClient({
      baseUrl: 'http://x',
      socketPath: join(directory, 'draining'),
    });
    const answer = client.download('/');
    await asked;
    const closed = scope.close();
    finish();
    assert.equal(await text((await answer).body), 'done');
    await client.close();
    await closed;
  });

  it('with TLS ends as well, whatever clients hold open', async () => {
    const ca = await createCa('CN=Test CA');
    const server = await issueCertificate(ca, {
      subject: 'CN=localhost',
      usage: 'server',
      hosts: ['localhost', '127.0.0.1'],
    });
    const tls = { key: keyPem(server.key), cert: server.certificate.toString() };
    const scope = new Scope();
    const { port } = await listen(sayHello, { host: '127.0.0.1', port: 0, tls }, scope);
    const baseUrl = `https://127.0.0.1:${port}`;
    await using client = createHttpClient({ baseUrl, tls: { ca: ca.certificate.toString() } });
    assert.deepEqual((await client.json('GET', '/')).body, { hello: true });
    await using stranger = createHttpClient({ baseUrl });
    await assert.rejects(stranger.json('GET', '/'), { code: 'SITE_UNAVAILABLE' });
    const started = Date.now();
    await scope.close();
    assert.ok(Date.now() - started < 2_000);
  });

  it('answers what is no HTTP with an error and goes on', async () => {
    await using scope = new Scope();
    const { port } = await listen(sayHello, { host: '127.0.0.1', port: 0 }, scope);
    const socket = connect(port!, '127.0.0.1');
    socket.write('this is no HTTP\r\n\r\n');
    assert.match(await text(socket), /^HTTP\/1.1 400 /);
    const large = connect(port!, '127.0.0.1');
    large.write(`GET / HTTP/1.1\r\nX: ${'x'.repeat(40_000)}\r\n\r\n`);
    assert.match(await text(large), /^HTTP\/1.1 431 /);
  });
});

async function until(condition: () => Promise<boolean>): Promise<void> {
  const deadline = Date.now() + 5_000;
  while (!(await condition().catch(() => false))) {
    if (Date.now() > deadline) throw new Error('the condition did not come true');
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
