import assert from 'node:assert/strict';
import { createServer, type IncomingMessage } from 'node:http';
import type { AddressInfo } from 'node:net';
import { text } from 'node:stream/consumers';
import { after, before, describe, it } from 'node:test';
import { formatDate } from '#kernel/clock.js';
import { silentLog } from '#kernel/log.js';
import { Scope } from '#kernel/scope.js';
import { Registry, RegistryEntry, RegistryList } from '#targetsystem/rest/answers.js';
import { publishEntries } from '#targetsystem/registry/publisher.js';
import { until } from '../xnjs/job/rig.js';
import { idOf, startCompute, type Ask, type Body, type Compute } from './compute-rig.js';
import { ShiftedClock } from './shifted-clock.js';

const path = '/rest/registries/default_registry';
const entry = {
  Endpoint: 'https://other.example/SITE/rest/core',
  InterfaceName: 'CoreServices',
  ServerIdentity: 'CN=Other Server,O=Grid',
};

describe('the registry', { timeout: 60_000 }, () => {
  const scope = new Scope();
  let rig: Compute;
  let server: Ask;
  before(async () => {
    rig = await startCompute(scope, {
      registry: { trustedDns: ['CN=Other Server, O=Grid'], lifetimeSeconds: 600, maxEntries: 2 },
    });
    server = rig.as('server');
  });
  after(() => scope.close());

  const entries = async () => Registry.parse((await rig.as('nobody')('GET', path)).body).entries;
  const types = async (): Promise<unknown[]> => (await entries()).map(({ type }) => type);
  const own = ['CoreServices', 'TargetSystemFactory', 'StorageFactory'];

  it("lists this server's services to everybody", async () => {
    const list = RegistryList.parse((await rig.as('nobody')('GET', '/rest/registries')).body);
    assert.deepEqual(list.registries, [`https://grid.example/TEST${path}`]);
    assert.equal(list.client.role.selected, 'anonymous');
    assert.equal(list.server.siteName, 'TEST');
    const [core] = await entries();
    assert.deepEqual(
      [core!.href, core!.type, core!.ServerPublicKey],
      ['https://grid.example/TEST/rest/core', 'CoreServices', 'PEM'],
    );
    assert.deepEqual(await types(), own);
  });

  it('takes entries of trusted servers alone', async () => {
    for (const name of ['nobody', 'stranger', 'alice'])
      assert.equal((await rig.as(name)('POST', path, entry)).status, 403);
    assert.deepEqual(await types(), own);
  });

  it('keeps an entry while it is refreshed, over a restart too, and forgets it then', async () => {
    const added = await server('POST', path, entry);
    assert.equal(added.headers['x-unicore-lifetime'], '600');
    const id = idOf(added);
    assert.equal(added.headers['location'], `https://grid.example/TEST/rest/registryentries/${id}`);
    rig.clock.advance(400_000);
    assert.equal(idOf(await server('POST', path, entry)), id, 'the same entry');
    rig.clock.advance(400_000);
    rig = await rig.restart();
    server = rig.as('server');
    const { body } = await rig.as('nobody')('GET', path);
    const found = (body['entries'] as Body[]).at(-1)!;
    assert.deepEqual([found['href'], found['Endpoint']], [entry.Endpoint, undefined]);
    const one = await rig.as('nobody')('GET', `/rest/registryentries/${id}`);
    const { owner, _links: links } = RegistryEntry.parse(one.body);
    assert.equal(owner, 'CN=Other Server,O=Grid');
    assert.equal(links['parent']!.href, `https://grid.example/TEST${path}`);
    rig.clock.advance(201_000);
    assert.deepEqual(await types(), own);
    assert.equal((await rig.as('nobody')('GET', `/rest/registryentries/${id}`)).status, 404);
  });

  it('lets the server that has added an entry take it back, or an administrator', async () => {
    const id = idOf(await server('POST', path, entry));
    assert.equal((await rig.as('admin')('POST', path, entry)).status, 403, "another's entry");
    for (const name of ['nobody', 'stranger', 'alice'])
      assert.equal((await rig.as(name)('DELETE', `/rest/registryentries/${id}`)).status, 403);
    assert.equal((await server('DELETE', `/rest/registryentries/${id}`)).status, 204);
    assert.deepEqual(await types(), own);
    const again = idOf(await server('POST', path, entry));
    assert.equal((await rig.as('admin')('DELETE', `/rest/registryentries/${again}`)).status, 204);
  });

  it('lets those who may take an entry back change its tags and its end, which a refresh moves', async () => {
    const at = `/rest/registryentries/${idOf(await server('POST', path, entry))}`;
    for (const name of ['nobody', 'stranger', 'alice'])
      assert.equal((await rig.as(name)('PUT', at, { tags: ['x'] })).status, 403);
    const tooLate = formatDate(rig.clock.now() + 700_000);
    const change = { tags: ['a', 1, true], terminationTime: tooLate, Endpoint: 'https://h/' };
    const { body } = await server('PUT', at, change);
    assert.equal(body['tags'], 'OK');
    assert.match(String(body['terminationTime']), /is later than it may live/);
    assert.match(String(body['Endpoint']), /cannot be modified/);
    await server('POST', path, entry);
    rig = await rig.restart();
    server = rig.as('server');
    const read = async () => await rig.as('nobody')('GET', at);
    assert.deepEqual((await read()).body['tags'], ['a', '1', 'true']);
    const soon = formatDate(rig.clock.now() + 60_000);
    assert.deepEqual((await server('PUT', at, { terminationTime: soon })).body, {
      terminationTime: 'OK',
    });
    rig.clock.advance(61_000);
    assert.equal((await read()).status, 404);
    assert.equal((await server('PUT', at, { tags: [] })).status, 404);
  });

  const wrong: readonly (readonly [string, object, RegExp])[] = [
    ['no endpoint', { InterfaceName: 'X' }, /^Endpoint: /],
    ['an endpoint that is no address', { ...entry, Endpoint: 'javascript:x' }, /^Endpoint: .* URL/],
    ['no type', { Endpoint: entry.Endpoint }, /^InterfaceName: /],
    ['a key that is none', { ...entry, ServerPublicKey: 'x' }, /^ServerPublicKey: must be PEM/],
  ];
  for (const [what, body, message] of wrong)
    it(`refuses an entry with ${what}`, async () => {
      const answer = await server('POST', path, body);
      assert.equal(answer.status, 400);
      assert.match(String(answer.body['errorMessage']), message);
    });

  it('holds no more than it may', async () => {
    const ids = [];
    for (const name of ['a', 'b'])
      ids.push(
        idOf(await server('POST', path, { ...entry, Endpoint: `https://h/${name}/rest/core` })),
      );
    assert.equal((await server('POST', path, entry)).status, 409);
    for (const id of ids) await server('DELETE', `/rest/registryentries/${id}`);
  });
});

describe('registries elsewhere', { timeout: 60_000 }, () => {
  const scope = new Scope();
  const posts: Body[] = [];
  let answer = { status: 201, headers: { 'X-UNICORE-Lifetime': '600' } };
  let url = '';
  before(async () => {
    const http = createServer((request: IncomingMessage, response) => {
      void text(request).then((body) => {
        posts.push({ ...(JSON.parse(body) as Body), auth: request.headers.authorization });
        response.writeHead(answer.status, answer.headers).end();
      });
    });
    await new Promise<void>((resolve) => http.listen(0, '127.0.0.1', resolve));
    scope.defer(() => new Promise((resolve) => http.close(resolve)));
    url = `http://127.0.0.1:${(http.address() as AddressInfo).port}/rest/registries/default_registry`;
  });
  after(() => scope.close());

  it('are told of this server, again before they forget it, and tried again when they fail', async () => {
    const clock = new ShiftedClock();
    const publisher = scope.use(
      publishEntries({
        registries: [{ url }],
        entries: () => [entry],
        token: () => Promise.resolve('proof'),
        clock,
        log: silentLog,
      }),
    );
    assert.deepEqual(publisher.status(), { [`Registry ${url}`]: 'UNKNOWN' });
    const is = (status: string) =>
      until(status, () => publisher.status()[`Registry ${url}`] === status);
    await is('OK');
    assert.deepEqual(posts, [{ ...entry, auth: 'Bearer proof' }]);
    clock.advance(500_000);
    assert.equal(posts.length, 1, 'not yet');
    answer = { ...answer, status: 503 };
    clock.advance(45_000);
    await is('DOWN');
    assert.equal(posts.length, 2);
    answer = { ...answer, status: 201 };
    clock.advance(6_000);
    await is('OK');
    assert.equal(posts.length, 3);
  });
});
