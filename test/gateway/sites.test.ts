import assert from 'node:assert/strict';
import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import { createServer, type IncomingMessage, type Server } from 'node:http';
import { Agent, request as httpsRequest } from 'node:https';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { loadConfig } from '#kernel/config.js';
import { silentLog } from '#kernel/log.js';
import { GatewayConfig } from '#gateway/main.js';
import { GatewayServer } from '#gateway/server.js';
import { eventually, startRig, type Answer, type Rig } from './rig.js';

/** A server that says its name and what it was sent. */
async function listen(path: string, name: string): Promise<Server> {
  const server = createServer((request, response) => {
    let body = '';
    request.setEncoding('utf8').on('data', (part: string) => (body += part));
    request.on('end', () => response.end(`${name} ${body}`.trim()));
  });
  server.listen(path);
  await once(server, 'listening');
  return server;
}
async function stop(server: Server): Promise<void> {
  const closed = once(server, 'close');
  server.close();
  server.closeAllConnections();
  await closed;
}
const bodyOf = async (rig: Rig, path: string) => (await rig.request({ path })).body;

describe('sites of several servers', () => {
  const start = async (
    strategy: 'primaryWithFallback' | 'roundRobin',
    addresses: (directory: string) => string[],
  ) => {
    const rig = await startRig(() => undefined);
    const group = { addresses: addresses(rig.directory), strategy, healthCheckSeconds: 0.05 };
    await rig.reconfigure({ sites: { GRID: group } });
    return rig;
  };
  const both = (directory: string) => ['a', 'b'].map((name) => `unix:${join(directory, name)}`);

  it('use the first that lives, lose no request when it goes, and return to it', async () => {
    await using rig = await start('primaryWithFallback', both);
    let a = await listen(join(rig.directory, 'a'), 'a');
    const b = await listen(join(rig.directory, 'b'), 'b');
    assert.equal(await bodyOf(rig, '/grid/x'), 'a');
    await stop(a);
    // The very next one, with a body that can be sent only once
    const post = await rig.request({ path: '/GRID/x', method: 'POST', body: 'job' });
    assert.deepEqual([post.status, post.body], [200, 'b job']);
    assert.equal(await bodyOf(rig, '/GRID/x'), 'b');
    a = await listen(join(rig.directory, 'a'), 'a');
    await eventually(async () => (await bodyOf(rig, '/GRID/x')) === 'a', 'the first is back');
    await Promise.all([stop(a), stop(b)]);
    const { status } = await rig.request({ path: '/GRID/x' });
    assert.equal(status, 503);
  });
  it('lose no request while one of three lives, whatever was known of them', async () => {
    await using rig = await startRig(() => undefined);
    const addresses = ['a', 'b', 'c'].map((name) => `unix:${join(rig.directory, name)}`);
    const group = { addresses, healthCheckSeconds: 600 };
    let last = await listen(join(rig.directory, 'c'), 'c');
    await rig.reconfigure({ sites: { GRID: group } });
    const post = () => rig.request({ path: '/GRID/x', method: 'POST', body: 'job' });
    const first = await post();
    assert.deepEqual([first.status, first.body], [200, 'c job'], 'nobody has looked yet');
    await stop(last);
    assert.equal((await post()).status, 503);
    last = await listen(join(rig.directory, 'b'), 'b');
    const next = await post();
    assert.deepEqual([next.status, next.body], [200, 'b job'], 'all were down at the last look');
    await stop(last);
  });
  it('take turns, leaving out those that are down', async () => {
    await using rig = await start('roundRobin', (directory) => [
      ...both(directory),
      `unix:${directory}/c`,
    ]);
    const a = await listen(join(rig.directory, 'a'), 'a');
    const b = await listen(join(rig.directory, 'b'), 'b');
    const answers: string[] = [];
    for (let i = 0; i < 12; i++) answers.push(await bodyOf(rig, '/GRID/x'));
    assert.deepEqual([...new Set(answers)].sort(), ['a', 'b']);
    const count = answers.filter((name) => name === 'a').length;
    assert.ok(count >= 4 && count <= 8, answers.join());
    const page = await rig.request({ path: '/', headers: { Accept: 'application/json' } });
    assert.match(page.body, /"name":"GRID","status":"OK"/);
    await Promise.all([stop(a), stop(b)]);
  });
});

describe('sites that change', () => {
  it('come and go with the configuration; what is under way finishes; a mistake changes nothing', async () => {
    let answer: (() => void) | undefined;
    await using rig = await startRig((request, response) => {
      if (request.url === '/slow') answer = () => response.end('done');
      else response.end('x');
    });
    const pending = rig.request({ path: '/VSITE/slow' });
    await eventually(() => answer !== undefined, 'the request is under way');
    const other = await listen(join(rig.directory, 'other'), 'other');
    await rig.reconfigure({
      sites: { OTHER: `unix:${join(rig.directory, 'other')}` },
    });
    assert.equal(await bodyOf(rig, '/other/x'), 'other');
    assert.equal((await rig.request({ path: '/VSITE/x' })).status, 404);
    answer?.();
    assert.equal((await pending).body, 'done');
    await writeFile(rig.configFile, '{ sites: [');
    await eventually(() => rig.lines.some(({ level }) => level === 50), 'the mistake was seen');
    assert.equal(await bodyOf(rig, '/other/x'), 'other');
    await stop(other);
  });
  it('keep their connections and counters when something else changes', async () => {
    let connections = 0;
    await using rig = await startRig((_request, response) => response.end('x'));
    rig.upstream.on('connection', () => connections++);
    await bodyOf(rig, '/VSITE/x');
    await rig.reconfigure({ proxies: ['192.0.2.0/24'] });
    await bodyOf(rig, '/VSITE/x');
    assert.equal(connections, 1);
    const { body } = await rig.request({ path: '/', headers: { Accept: 'application/json' } });
    assert.match(body, /"name":"VSITE","status":"OK","requests":2/);
  });
});

describe('sites that register', () => {
  const secret = 'correct horse battery';
  const start = async (more: object = {}) => {
    const rig = await startRig((_request, response) => response.end('x'));
    const secretFile = join(rig.directory, 'secret');
    await writeFile(secretFile, `${secret}\n`);
    await rig.reconfigure({ registration: { secretFile, ...more } });
    return rig;
  };
  const register = (rig: Rig, form: Record<string, string>): Promise<Answer> =>
    rig.request({
      path: '/VSITE_REGISTRATION_REQUEST',
      method: 'POST',
      headers: { 'content-type': 'application/x-www-form-urlencoded' },
      body: new URLSearchParams({
        name: 'NEW',
        address: 'https://localhost:1',
        secret,
        ...form,
      }).toString(),
    });
  const names = async (rig: Rig) => {
    const { body } = await rig.request({ path: '/', headers: { Accept: 'application/json' } });
    return (JSON.parse(body) as { sites: { name: string }[] }).sites.map(({ name }) => name);
  };

  it('are reached, are replaced under the same name, and outlive a change of the configuration', async () => {
    await using behind = await startRig((request, response) =>
      response.end(`behind ${String(request.url)}`),
    );
    await using rig = await start();
    const down = await register(rig, {});
    assert.equal(down.status, 201, down.body);
    assert.equal((await rig.request({ path: '/NEW/x' })).status, 503);
    // A gateway is an https server as good as any; its site's path makes a base path
    assert.equal(
      (await register(rig, { name: 'new', address: `https://localhost:${behind.port}/VSITE/` }))
        .status,
      201,
    );
    assert.equal(await bodyOf(rig, '/New/x?q'), 'behind /x?q');
    await rig.reconfigure({});
    assert.deepEqual(await names(rig), ['VSITE', 'DOWN', 'new']);
  });
  it('are not there without the secret', async () => {
    await using rig = await start();
    for (const form of [{ secret: 'wrong' }, { secret: '' }, { secret: `${secret} ` }])
      assert.equal((await register(rig, form)).status, 403);
    assert.equal((await rig.request({ path: '/NEW/x' })).status, 404);
    assert.deepEqual(await names(rig), ['VSITE', 'DOWN']);
    assert.doesNotMatch(JSON.stringify(rig.lines), new RegExp(secret));
  });
  it('are told that a form is too long, also while it is still coming', async () => {
    await using rig = await start();
    const request = httpsRequest({
      ...{ host: 'localhost', port: rig.port, ca: rig.ca, agent: false },
      ...{ path: '/VSITE_REGISTRATION_REQUEST', method: 'POST' },
      headers: { 'content-length': 1_000_000 },
    });
    request.write('name=BIG&address='.padEnd(20_000, 'x'));
    const [answer] = (await once(request, 'response')) as [IncomingMessage];
    assert.equal(answer.statusCode, 413);
    request.destroy();
  });
  it('may go away in the middle, which is no failure of ours', async () => {
    await using rig = await start();
    const request = httpsRequest({
      ...{ host: 'localhost', port: rig.port, ca: rig.ca, agent: false },
      ...{ path: '/VSITE_REGISTRATION_REQUEST', method: 'POST' },
      headers: { 'content-length': 1_000 },
    });
    request.on('error', () => undefined);
    request.write('name=GONE', () => request.destroy());
    await eventually(() => rig.lines.some(({ msg }) => msg === 'client left'), 'it was seen');
    assert.ok(!rig.lines.some(({ msg }) => msg === 'request failed unexpectedly'));
  });
  it('are refused while registration is off', async () => {
    await using rig = await startRig(() => undefined);
    assert.equal((await register(rig, {})).status, 403);
    assert.deepEqual(await names(rig), ['VSITE', 'DOWN']);
  });
  it('are refused under the name of what the gateway has itself', async () => {
    await using rig = await start();
    const file = join(rig.directory, 'secret');
    const apiTokens = { issuer: 'https://op.example', clientId: 'grid', clientSecretFile: file };
    await rig.reconfigure({ registration: { secretFile: file }, apiTokens });
    assert.equal((await register(rig, { name: 'Generate-Token' })).status, 409);
    assert.equal((await register(rig, { name: 'Generate-Tokens' })).status, 201);
  });
  it('need a secret that cannot be guessed', async () => {
    await using rig = await start();
    await writeFile(join(rig.directory, 'secret'), 'short');
    await rig.gateway.reload();
    assert.match(JSON.stringify(rig.lines.at(-1)), /shorter than 16 characters/);
  });
  it('are refused with a wrong name or address, by rule, or in place of a configured one', async () => {
    await using rig = await start({
      allow: ['*.grid.example', 'good.example:7777'],
      deny: ['bad.grid.example'],
    });
    const cases = [
      [{ address: 'https://a.grid.example:7777' }, 201],
      [{ address: 'https://good.example:7777' }, 201],
      [{ address: 'https://good.example:7778' }, 400],
      [{ address: 'https://bad.grid.example' }, 400],
      [{ address: 'https://grid.example.evil.example' }, 400],
      [{ address: 'https://evil.example/x.grid.example' }, 400],
      [{ address: 'https://a.grid.example@evil.example' }, 400],
      [{ address: 'http://a.grid.example' }, 400],
      [{ address: 'unix:/run/docker.sock' }, 400],
      [{ address: '' }, 400],
      [{ name: '<b>', address: 'https://a.grid.example' }, 400],
      [{ name: 'vsite', address: 'https://a.grid.example' }, 409],
      [{ name: 'BIG', address: 'x'.repeat(9_000) }, 413],
    ] as const;
    for (const [form, status] of cases)
      assert.equal((await register(rig, form)).status, status, JSON.stringify(form).slice(0, 100));
    assert.deepEqual(await names(rig), ['VSITE', 'DOWN', 'NEW']);
  });
  it('are all known to a process that starts later', async () => {
    await using behind = await startRig((_request, response) => response.end('behind'));
    await using rig = await start();
    await rig.reconfigure({ sites: { GRID: { addresses: [`unix:${rig.directory}/none`] } } });
    const addresses = [`https://localhost:${behind.port}/VSITE`, 'https://localhost:1'];
    const later = await GatewayServer.start(await loadConfig(rig.configFile, GatewayConfig), {
      log: silentLog,
      registered: addresses.map((address) => ({ name: 'GRID', address })),
    });
    const port = Number(new URL(later.url).port);
    const agent = new Agent({ keepAlive: true });
    const deadline = Date.now() + 10_000;
    let body = '';
    while (body !== 'behind' && Date.now() < deadline)
      body = (await rig.request({ path: '/GRID/x', port, agent })).body;
    agent.destroy();
    await later.close();
    assert.equal(body, 'behind');
  });
  it('join the others of a configured group', async () => {
    await using behind = await startRig((_request, response) => response.end('behind'));
    await using rig = await start();
    const group = { addresses: [`unix:${rig.directory}/none`, `unix:${rig.directory}/never`] };
    await rig.reconfigure({
      sites: { GRID: group },
      registration: { secretFile: join(rig.directory, 'secret') },
    });
    assert.equal(
      (await register(rig, { name: 'GRID', address: `https://localhost:${behind.port}/VSITE` }))
        .status,
      201,
    );
    const agent = new Agent({ keepAlive: true });
    await eventually(
      async () => (await rig.request({ path: '/GRID/x', agent })).body === 'behind',
      'it is one of the group',
    );
    agent.destroy();
  });
});
