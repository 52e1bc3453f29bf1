import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { after, before, describe, it } from 'node:test';
import type { Answers } from '#kernel/http/answers.js';
import { Scope } from '#kernel/scope.js';
import { factoryId, registryId } from '#targetsystem/rest/links.js';
import { restOperations } from '#targetsystem/rest/operations.js';
import { until } from '../xnjs/job/rig.js';
import { access, mayBy, whoBy, type Row } from './access-table.js';
import {
  callers,
  pathOf,
  startRig,
  type Answer,
  type Ask,
  type CallerName,
  type Rig,
} from './storages-rig.js';

const core = '/rest/core';
const everybody = Object.keys(callers) as CallerName[];
const operations = Object.entries(restOperations).flatMap(([prefix, each]) =>
  each.map((operation) => ({ key: `${operation.method} ${prefix}${operation.path}`, operation })),
);

describe('who may do what', { timeout: 120_000 }, () => {
  const scope = new Scope();
  let rig: Rig;
  let [alice, bob, reader, writer, modifier]: Ask[] = [];
  let site = '';
  let job = '';
  let storage = '';
  /** What data services keep of alice's, by the collection or the method of the operation. */
  let kept: Readonly<Record<string, string>> = {};
  let shareId = '';
  let entryId = '';
  before(async () => {
    rig = await startRig(scope, {
      reservations: [reservation],
      config: (directory) => ({
        shared: { ARCHIVE: { on: 'host', path: `${directory}/archive` } },
        factories: { HOST: { on: 'host', path: `${directory}/made` } },
        perUser: 50,
      }),
    });
    [alice, bob, reader, writer, modifier] = (
      ['alice', 'bob', 'reader', 'writer', 'modifier'] as const
    ).map(rig.as);
    site = await rig.makeSite(callers.alice.dn);
    job = await made(`/sites/${site}`, {});
    storage = await made('/storages', { type: 'HOST' });
    await until('all is there', async () => {
      const shown = (path: string) => alice!('GET', path).then(({ body }) => body);
      return (
        (await shown(`/jobs/${job}`))['status'] === 'SUCCESSFUL' &&
        (await shown(`/storages/${storage}`))['resourceStatus'] === 'READY'
      );
    });
    for (const path of [`/sites/${site}`, `/jobs/${job}`, `/storages/${storage}`])
      await grant(path);
    assert.equal(
      (await alice!('PUT', `/storages/${storage}/files/kept/file`, { body: 'kept' })).status,
      204,
    );
    kept = await keep();
    for (const path of keptPaths()) await grant(path);
    shareId = await made('/rest/share/TEST', {
      ...{ user: callers.reader.dn, access: 'WRITE', path: `/${storage}/kept/file` },
    });
    const entry = { Endpoint: 'https://other.example/S/rest/core', InterfaceName: 'Core' };
    const added = await rig.as('server')('POST', '/rest/registries/default_registry', {
      body: entry,
    });
    entryId = idOf(added);
  });
  after(() => scope.close());

  async function made(path: string, body: object): Promise<string> {
    return idOf(await alice!('POST', path, { body }));
  }

  /** A task, a volume, transfers and addresses of files without login. */
  async function keep(): Promise<Record<string, string>> {
    const resources = [`https://grid.example/TEST${core}/storages/${storage}`];
    const [exported, imported] = await Promise.all(
      ['exports', 'imports'].map((name) =>
        alice!('POST', `/storages/${storage}/${name}`, { body: { file: 'kept/file' } }),
      ),
    );
    const source = `https://grid.example/TEST${core}/storages/${storage}/files/kept/file`;
    return {
      tasks: await made('/storages/search', { query: 'x', resources }),
      volumes: await made('/volumes', { name: 'kept', sizeMiB: 16 }),
      transfers: await made(`/storages/${storage}/transfers`, { file: 'fetched', source }),
      'client-server-transfers': idOf(exported!, 200),
      GET: String(exported!.body['accessURL']).split('/').at(-1)!,
      PUT: String(imported!.body['accessURL']).split('/').at(-1)!,
    };
  }
  /** By collection; the others are addresses without login. */
  const keptResources = () => Object.entries(kept).filter(([kind]) => /^[a-z]/.test(kind));
  const keptPaths = () => keptResources().map(([kind, id]) => `/${kind}/${id}`);
  const acl = (['read', 'write', 'modify'] as const).map(
    (level, at) => `${level}:DN:${[callers.reader, callers.writer, callers.modifier][at]!.dn}`,
  );
  async function grant(path: string, entries: readonly string[] = acl): Promise<void> {
    const { body } = await alice!('PUT', path, { body: { acl: entries } });
    assert.deepEqual(body, { acl: 'OK' });
  }

  /** What stands for parameters of paths; another kind of resource needs another member. */
  const fixtures = (prefix: string, method: string): Record<string, string | undefined> => ({
    siteId: site,
    snapshotId: 'none',
    jobId: job,
    storageId: storage,
    factoryId: prefix.includes('storagefactories') ? 'HOST' : factoryId,
    registryId,
    applicationId: 'Date---v1.0',
    action: prefix.includes('/storages/') ? 'copy' : 'start',
    path: prefix.includes('/access/') ? '' : 'some/file',
    reservationId: reservation.id,
    id: kept[prefix.split('/')[3] ?? ''],
    key: kept[method],
    server: 'TEST',
    ...{ shareId, entryId },
  });
  function fill(key: string): string {
    const [method = '', path = ''] = key.split(' ');
    const known = fixtures(path, method);
    return (
      path
        .replace(/\{\/\*(\w+)\}/g, '/:$1')
        .replace(
          /:(\w+)/g,
          (_, name: string) => known[name] ?? assert.fail(`no fixture for :${name}`),
        )
        .replace(/(?<!\/storages)\/search$/, '/search?q=x')
        // a stream would not end; that it has this type of events is decided later
        .replace(/\/events$/, '/events?types=none')
    );
  }

  it('is in the table for every operation, and says the same as the operation', () => {
    const keys = operations.map(({ key }) => key);
    const missing = keys.filter((key) => !Object.hasOwn(access, key));
    assert.deepEqual(missing, [], 'operations without a row: add who may, in access-table.ts');
    const gone = Object.keys(access).filter((key) => !keys.includes(key));
    assert.deepEqual(gone, [], 'rows of access-table.ts without an operation');
    for (const { key, operation } of operations) {
      assert.equal(whoBy(operation.access), whoOf(access[key]!), `${key} says something else`);
      assert.notEqual(operation.access.description, '');
    }
  });

  const whoOf = (each: Row) => (typeof each === 'string' ? each : each.who);
  const row = (key: string) => {
    const found = access[key]!;
    return typeof found === 'string' ? ({} as Partial<Exclude<Row, string>>) : found;
  };
  // what ends a resource comes last: of the sites' the machine is gone with it
  const rank = (key: string): number =>
    key.startsWith('DELETE') ? (key.includes('files') ? 1 : key.includes('sites') ? 3 : 2) : 0;
  const inOrder = [...operations].sort((a, b) => rank(a.key) - rank(b.key));

  async function check(key: string, path: string, row: Row): Promise<void> {
    const allowed: readonly CallerName[] = mayBy[whoOf(row)];
    const [method = ''] = key.split(' ');
    const {
      body: given,
      login,
      hiddenFrom = [],
    } = typeof row === 'string' ? ({} as Partial<Exclude<Row, string>>) : row;
    const usual = method === 'POST' || method === 'PUT' ? {} : undefined;
    const headers = { accept: '*/*' };
    // those who may not first: the others may leave nothing
    const order = [...everybody].sort((a, b) => Number(allowed.includes(a)) - Number(allowed.includes(b))); // prettier-ignore
    for (const name of order) {
      const own: object | string | undefined = typeof given === 'function' ? given(name) : given;
      const body = own ?? usual;
      const answer = await rig.as(name)(method, path, {
        headers,
        ...(body !== undefined && { body }),
      });
      const { status, text } = answer;
      const decision = rig.lastDecision();
      const what = `${key} by ${name}: ${status} ${text.slice(0, 200)}`;
      // who is gone after it was deleted, was decided upon before
      if (status === 404 && method === 'DELETE') continue;
      if (hiddenFrom.includes(name)) {
        assert.equal(status, 404, what);
        continue;
      }
      assert.equal(decision?.operation, key.replace(/ \/rest\/\w+/, ' '), what);
      assert.equal(decision.caller?.dn, callers[name].dn, what);
      assert.equal(decision.allowed, allowed.includes(name), what);
      if (allowed.includes(name)) {
        assert.ok(status !== 403 && status !== 500, what);
        assertDescribed(key, answer, what);
      } else assert.equal(status, login && name === 'nobody' ? 401 : 403, what);
    }
  }

  for (const { key } of inOrder.filter((each) => rank(each.key) < 2))
    it(key, () => check(key, fill(key), access[key]!));

  it('in the directory of a job: whom the job lets in', async () => {
    const ofFiles = inOrder.filter(({ key }) => key.includes('/:storageId') && rank(key) < 2);
    for (const { key } of ofFiles) {
      const path = fill(key).replace(storage, `${job}-uspace`);
      if (!path.includes('/search')) await check(key, path, access[key]!);
    }
    await grant(`/storages/${job}-uspace`, [acl[0]!]);
    assert.deepEqual((await alice!('GET', `/jobs/${job}`)).body['acl'], [acl[0]]);
    assert.equal(
      (await writer!('PUT', `/storages/${job}-uspace/files/f`, { body: 'x' })).status,
      403,
    );
    await grant(`/jobs/${job}`);
    assert.deepEqual((await alice!('GET', `/storages/${job}-uspace`)).body['acl'], acl);
  });

  it('of what is sent to elsewhere: whoever may read it', () => {
    const key = 'POST /rest/core/storages/:storageId/transfers';
    const body = { file: 'kept/file', target: 'nothing://x/y' };
    return check(key, fill(key), { who: 'read', body });
  });

  it('in the home directory of a target system: nobody whom only the target system lets in', async () => {
    for (const ask of [reader, writer, modifier])
      for (const name of ['HOME', 'WORK'])
        assert.equal((await ask!('GET', `/storages/${site}-${name}/files`)).status, 403);
  });

  it('with ACLs: only the owner changes them, and they stay', async () => {
    const owned = [`/sites/${site}`, `/jobs/${job}`, `/storages/${storage}`, ...keptPaths()];
    for (const path of owned) {
      const entry = `modify:DN:${callers.bob.dn}`;
      const { body } = await modifier!('PUT', path, { body: { acl: [entry], tags: ['t'] } });
      assert.match(String(body['acl']), /only the owner/, path);
      assert.equal(body['tags'], 'OK', path);
      const wrong = await alice!('PUT', path, { body: { acl: ['read:EVERYBODY:x'] } });
      assert.match(String(wrong.body['acl']), /read:EVERYBODY:x/, path);
      assert.deepEqual((await reader!('GET', path)).body['acl'], acl, path);
      await grant(path, ['read:GROUP:physics', 'write:VO:/astro', 'read:ROLE:anonymous']);
      for (const name of ['bob', 'reader', 'nobody'] as const)
        assert.equal((await rig.as(name)('GET', path)).status, 403, path);
      await grant(path, ['read:ROLE:user']);
      assert.equal((await bob!('GET', path)).status, 200, path);
      await grant(path);
    }
  });

  it('with queues: a caller sees those that he may use', async () => {
    const seen = async (who: CallerName): Promise<[string[], unknown]> => {
      const { body } = await rig.as(who)('GET', `/factories/${factoryId}`);
      const { client } = (await rig.as(who)('GET', '/')).body as { client: { queues?: object } };
      return [Object.keys(body['resources'] as object), client.queues];
    };
    const [all, unlimited] = await seen('alice');
    assert.ok(all.length > 0);
    assert.equal(unlimited, undefined);
    assert.deepEqual(await seen('guest'), [[], { selected: 'night', availableQueues: ['night'] }]);
    await grant(`/sites/${site}`, [...acl, `write:DN:${callers.guest.dn}`]);
    const body = { Resources: { Queue: 'day' } };
    const refused = await rig.as('guest')('POST', `/sites/${site}`, { body });
    assert.equal(refused.status, 403);
    assert.match(String(refused.body['errorMessage']), /Queue: "day" .* yours are night/);
    await grant(`/sites/${site}`);
  });

  it('in lists: what one may read, and nothing else', async () => {
    const lists = { sites: site, jobs: job, storages: storage, reservations: reservation.id };
    for (const [name, id] of [...Object.entries(lists), ...keptResources()]) {
      const listed = async (who: CallerName): Promise<string[]> =>
        (await rig.as(who)('GET', `/${name}`)).body[name] as string[];
      const has = async (who: CallerName) => (await listed(who)).some((url) => url.endsWith(id));
      for (const who of ['alice', 'reader', 'writer'] as const) assert.ok(await has(who), name);
      for (const who of ['bob', 'guest', 'nobody'] as const) assert.ok(!(await has(who)), name);
      const { body } = await reader!('GET', `/${name}?num=1`);
      assert.equal((body[name] as string[]).length, 1);
    }
    const ofSite = await reader!('GET', `/sites/${site}/jobs`);
    assert.deepEqual(ofSite.body['jobs'], [`https://grid.example/TEST${core}/jobs/${job}`]);
    await grant(`/jobs/${job}`, []);
    assert.ok(!((await reader!('GET', '/jobs')).body['jobs'] as string[]).join().includes(job));
    assert.deepEqual((await reader!('GET', `/sites/${site}/jobs`)).body['jobs'], []);
    await grant(`/jobs/${job}`);
  });

  it('by other verbs: nothing where there is none, and HEAD for whom GET is', async () => {
    const paths = new Set(operations.map(({ key }) => key.split(' ')[1]!));
    for (const path of paths) {
      const same = operations.filter(({ key }) => key.endsWith(` ${path}`));
      const known = new Set<string>(same.map(({ operation }) => operation.method));
      const url = fill(`GET ${path}`);
      for (const name of ['alice', 'bob', 'nobody', 'banned'] as const) {
        for (const method of ['PUT', 'POST', 'DELETE', 'PATCH'])
          // of alice's some are other operations: a path may fit two
          if (!known.has(method) && name !== 'alice') {
            const { status, headers } = await rig.as(name)(method, url);
            assert.ok([403, 404, 405].includes(status), `${method} ${path} by ${name}: ${status}`);
            if (status === 405) assert.ok(!String(headers['allow']).includes(method), path);
          }
        const key = `GET ${path}`;
        // what GET ends of it, HEAD ends too: one-time shares, and streams have no end
        if (!known.has('GET') || /events|console|forward-port|access/.test(path)) continue;
        const { status } = await rig.as(name)('HEAD', fill(key), { headers: { accept: '*/*' } });
        const { hiddenFrom = [] } = row(key);
        const mayRead = (mayBy[whoOf(access[key]!)] as readonly CallerName[]).includes(name);
        const refused = hiddenFrom.includes(name)
          ? 404
          : row(key).login && name === 'nobody'
            ? 401
            : 403;
        if (!mayRead) assert.equal(status, refused, `HEAD ${path} by ${name}`);
        else assert.ok(status !== 403 && status < 500, `HEAD ${path} by ${name}: ${status}`);
      }
    }
  });

  describe('by a form of another site that an administrator opens: nothing', () => {
    const form = { 'content-type': 'application/x-www-form-urlencoded' };
    const evil = { ...form, origin: 'https://evil.example', 'sec-fetch-site': 'cross-site' };
    for (const { key, operation } of operations.filter((each) => each.operation.method !== 'GET'))
      it(key, async () => {
        const { body = {} } = row(key);
        const given = typeof body === 'function' ? body('admin') : body;
        const query = typeof given === 'string' ? '' : `?${new URLSearchParams(textsIn(given)).toString()}`; // prettier-ignore
        const admin = rig.as('admin');
        const send = (headers: Record<string, string>) =>
          admin(operation.method, fill(key) + query, { headers });
        const refused = await send(evil);
        assert.equal(refused.status, 403, refused.text);
        assert.match(String(refused.body['errorMessage']), /pages of https:\/\/evil\.example/);
        assert.match(rig.lastDecision()?.why ?? '', /^sent by a page of https:\/\/evil\.example$/);
        // browsers that do not say whose page it is can send nothing else than this
        if (operation.method === 'POST') assert.equal((await send(form)).status, 415);
        const json = { 'content-type': 'application/json' };
        if (operation.body === 'json' && query.length > 1)
          assert.equal((await send(json)).status, 400, 'a body may be in the query');
      });
  });

  it('in the id of a resource', async () => {
    for (const id of ['..', '%2e%2e', '..%2f..', `${job}%2f..%2f..`, `${job}%00`, 'a'.repeat(200)])
      for (const kind of ['jobs', 'sites', 'storages', 'storagefactories', 'factories']) {
        const { status } = await bob!('GET', `/${kind}/${id}`);
        assert.ok([400, 404].includes(status) || (id === '..' && status < 500), `${kind} ${id}`);
      }
  });

  describe('and in the end', () => {
    for (const { key } of inOrder.filter((each) => rank(each.key) >= 2))
      it(key, () => check(key, fill(key), access[key]!));
  });
});

/** As alice has it; its batch system is not asked for it here. */
const reservation = {
  id: randomUUID(),
  ...{ ownerDn: callers.alice.dn, targetId: 'gone', state: 'MADE' as const, reference: 'r1' },
  ...{ resources: {}, request: { start: '2099-01-01T00:00:00+0000' }, tags: [] },
  acl: (['read', 'write', 'modify'] as const).map(
    (level, at) => `${level}:DN:${callers[(['reader', 'writer', 'modifier'] as const)[at]!].dn}`,
  ),
  ...{ createdMs: 0, terminationMs: Date.UTC(2100, 0) },
} as const;

/** What is answered is what the API document says. */
function assertDescribed(key: string, { status, headers, body }: Answer, what: string): void {
  if (status >= 300) return;
  const answers: Answers = operations.find((each) => each.key === key)!.operation.answers;
  const answer = answers[status];
  assert.ok(answer, `${what}: not described`);
  const isJson = String(headers['content-type']).startsWith('application/json');
  const parsed = isJson ? answer.body?.safeParse(body) : undefined;
  assert.deepEqual(parsed?.error?.issues ?? [], [], what);
  // what the schema does not know is not in `data`
  if (parsed?.data !== undefined) assert.deepEqual(parsed.data, body, what);
}

/** As fields of a form. */
function textsIn(body: object): Record<string, string> {
  return Object.fromEntries(Object.entries(body).map(([name, value]) => [name, String(value)]));
}

/** The last part of the address of what was made. */
function idOf({ status, headers, text }: Answer, expected = 201): string {
  assert.equal(status, expected, text);
  return pathOf(headers['location']).split('/').at(-1)!;
}
