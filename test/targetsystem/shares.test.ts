import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { systemClock } from '#kernel/clock.js';
import { Scope } from '#kernel/scope.js';
import { until } from '../xnjs/job/rig.js';
import { pathOf, startRig, type Answer, type Ask, type Rig } from './storages-rig.js';

const core = 'https://grid.example/TEST/rest/core';
const asBytes = { headers: { accept: 'application/octet-stream' } };
const clock = { ...systemClock, aheadMs: 0, now: () => Date.now() + clock.aheadMs };

const linksOf = ({ body }: Answer): Record<string, { href?: string }> =>
  body['_links'] as Record<string, { href?: string }>;

describe('shares, tasks and large directories by REST', { timeout: 120_000 }, () => {
  const scope = new Scope();
  let rig: Rig;
  let site: string;
  let [alice, bob, nobody]: Ask[] = [];
  before(async () => {
    rig = await startRig(scope, {
      clock,
      data: { reaperIntervalMs: 20, sharesPerUser: 10 },
      config: (directory) => ({
        shared: {
          ARCHIVE: { on: 'host', path: `${directory}/archive` },
          SCRATCH: { on: 'target', path: `${directory}/scratch` },
        },
      }),
    });
    site = await rig.makeSite('CN=Alice,O=Grid');
    [alice, bob, nobody] = [rig.as('alice'), rig.as('bob'), rig.as('nobody')];
  });
  after(() => scope.close());

  const put = async (storage: string, path: string, body: string, headers = {}): Promise<Answer> =>
    alice!('PUT', `/storages/${storage}/files/${path}`, { body, headers });

  describe('shares', () => {
    const share = async (body: object, ask = alice): Promise<Answer> =>
      ask!('POST', '/rest/share/TEST', { body });
    /** @returns the share as its owner sees it */
    const shared = async (body: object): Promise<Record<string, string>> => {
      const { status, headers, text } = await share(body);
      assert.equal(status, 201, text);
      return (await alice!('GET', pathOf(headers['location']))).body as Record<string, string>;
    };
    const bobsDn = 'CN=Bob,O=Grid';

    for (const [where, storage] of [
      ['in a target system', () => `${site}-SCRATCH`],
      ['on the server', () => 'ARCHIVE'],
    ] as const)
      it(`let another user read and write what is shared ${where}, and nothing else`, async () => {
        await put(storage(), 'common/a.txt', '0123456789');
        await put(storage(), 'private', 'mine');
        const path = `/${storage()}/common`;
        const { id, http, ...shown } = await shared({ user: bobsDn, path, access: 'READ' });
        const { href, ...properties } = shown;
        assert.deepEqual(properties, {
          ...{ user: bobsDn, owner: 'CN=Alice,O=Grid', path, access: 'READ', directory: true },
          ...{ lifetime: 0, onetime: false, accessCount: 0, accesses: [] },
        });
        assert.equal(http, `https://grid.example/TEST/rest/access/TEST/${id}`);
        const at = pathOf(http);
        const file = await bob!('GET', `${at}/a.txt`, {
          headers: { ...asBytes.headers, range: 'bytes=2-4' },
        });
        assert.deepEqual([file.status, file.text], [206, '234']);
        const listing = await bob!('GET', at);
        assert.deepEqual(Object.keys(listing.body['content'] as object), ['/a.txt']);
        assert.equal((await bob!('GET', `${at}/../private`, asBytes)).status, 400);
        assert.equal((await bob!('GET', `${at}/..%2fprivate`, asBytes)).status, 400);
        assert.equal((await bob!('PUT', `${at}/b.txt`, { body: 'b' })).status, 403);
        assert.equal((await nobody!('GET', `${at}/a.txt`)).status, 401);
        assert.equal((await rig.as('admin')('GET', `${at}/a.txt`)).status, 200);
        assert.deepEqual((await alice!('PUT', pathOf(href), { body: { access: 'WRITE' } })).body, {
          access: 'OK',
        });
        assert.equal((await bob!('PUT', `${at}/b.txt`, { body: 'by bob' })).status, 204);
        assert.equal(
          (await alice!('GET', `/storages/${storage()}/files/common/b.txt`, asBytes)).text,
          'by bob',
        );
        const used = (await alice!('GET', pathOf(href))).body;
        assert.equal(used['accessCount'], 4);
        assert.deepEqual(
          (used['accesses'] as Record<string, string>[]).map(({ dn, access, path: of }) => [
            dn,
            access,
            of,
          ]),
          [
            [bobsDn, 'READ', '/a.txt'],
            [bobsDn, 'READ', ''],
            ['CN=Admin,O=Grid', 'READ', '/a.txt'],
            [bobsDn, 'WRITE', '/b.txt'],
          ],
        );
        const theirs = (await bob!('GET', '/rest/share/TEST')).body;
        assert.deepEqual(
          (theirs['accessible'] as Record<string, string>[]).map((each) => [
            each['id'],
            'accesses' in each,
          ]),
          [[id, false]],
        );
        assert.equal((await bob!('DELETE', pathOf(href))).status, 403);
        const none = await share({ user: bobsDn, path, access: 'NONE' });
        assert.equal(none.status, 204);
        assert.equal((await bob!('GET', `${at}/a.txt`)).status, 404);
      });

    it('are for everybody by their address alone, once or for a time', async () => {
      await put('ARCHIVE', 'report.txt', 'for all');
      const path = `${core}/storages/ARCHIVE/files/report.txt`;
      const once = await shared({ user: 'anonymous', path, onetime: true });
      const at = pathOf(once['http']);
      assert.equal((await nobody!('GET', `${at}/deeper`)).status, 404);
      const got = await nobody!('GET', at);
      assert.deepEqual([got.status, got.text], [200, 'for all']);
      assert.equal((await nobody!('GET', at)).status, 404);
      assert.equal((await alice!('GET', pathOf(once['href']))).status, 404);
      const timed = await shared({ user: 'anonymous', path, lifetime: 3600 });
      const until1 = pathOf(timed['http']);
      assert.equal((await nobody!('GET', until1)).status, 200);
      clock.aheadMs += 3_500_000;
      await alice!('PUT', pathOf(timed['href']), { body: { lifetime: 3600 } });
      clock.aheadMs += 3_500_000;
      assert.equal((await nobody!('GET', until1)).status, 200, 'it was extended');
      clock.aheadMs += 200_000;
      assert.equal((await nobody!('GET', until1)).status, 404);
      await until('it is reaped', () => !rig.data.shares.records.find(timed['id'] ?? ''));
    });

    it('are one-time for two at once, too', async () => {
      await put('ARCHIVE', 'single', 'x');
      const { http } = await shared({
        user: 'anonymous',
        path: '/ARCHIVE/single',
        onetime: 'true',
      });
      const answers = await Promise.all([1, 2, 3].map(() => nobody!('GET', pathOf(http))));
      assert.deepEqual(answers.map(({ status }) => status).sort(), [200, 404, 404]);
    });

    it('are refused to strangers, of what is another’s, and with a reason', async () => {
      for (const path of ['/rest/share', '/rest/share/TEST'])
        assert.equal((await nobody!('GET', path)).status, 401, path);
      const path = `/${site}-SCRATCH/common`;
      await alice!('PUT', `/storages/${site}-SCRATCH`, { body: { acl: [`write:DN:${bobsDn}`] } });
      const others = await share({ user: 'anonymous', path }, bob);
      assert.deepEqual([others.status, others.text.includes('only the owner')], [403, true]);
      for (const [body, status, reason] of [
        [{ path: '/ARCHIVE/x' }, 400, /user: name the user/],
        [{ user: 'no dn', path: '/ARCHIVE/x' }, 400, /user: is no distinguished name/],
        [{ user: bobsDn, path: 'x' }, 400, /path: must be/],
        [{ user: bobsDn, path: '/ARCHIVE/../../x' }, 400, /leads out/],
        [{ user: bobsDn, path: '/ARCHIVE/nothing' }, 404, /no file/],
        [{ user: bobsDn, path: '/NOWHERE/x' }, 404, /no storage/],
        [{ user: bobsDn, path: '/ARCHIVE/single', access: 'ALL' }, 400, /access/],
        [{ user: bobsDn, path: '/ARCHIVE/single', lifetime: -1 }, 400, /lifetime/],
        [{ user: bobsDn, path: '/ARCHIVE/single', group: 'wheel' }, 400, /group/],
      ] as const) {
        const answer = await share(body);
        assert.equal(answer.status, status, JSON.stringify(body));
        assert.match(String(answer.body['errorMessage']), reason);
      }
      assert.equal((await alice!('GET', '/rest/share/OTHER')).status, 404);
      assert.equal((await alice!('GET', '/rest/auth')).status, 404);
    });
  });

  describe('tasks', () => {
    const over = async (path: string): Promise<Answer['body']> => {
      let body: Answer['body'] = {};
      await until(`${path} is over`, async () => {
        ({ body } = await alice!('GET', path));
        return !['CREATED', 'RUNNING'].includes(body['status'] as string);
      });
      return body;
    };
    for (const [where, storage] of [
      ['in a target system', () => `${site}-SCRATCH`],
      ['on the server', () => 'ARCHIVE'],
    ] as const)
      it(`find out what files are, ${where}`, async () => {
        await put(storage(), 'docs/page.html', '<p>');
        await put(storage(), 'docs/deep/data.csv', 'a,b');
        const files = `/storages/${storage()}/files`;
        await alice!('PUT', `${files}/docs/page.html`, { body: { metadata: { kept: 'yes' } } });
        const links = linksOf(await alice!('GET', `${files}/docs`));
        const action = pathOf(links['action:extract']?.href);
        assert.equal(action, `${files}/actions/extract/docs`);
        const begun = await alice!('POST', action, { body: { depth: 0 } });
        assert.equal(begun.status, 200, begun.text);
        const { status, asyncExtraction, taskHref } = begun.body;
        assert.deepEqual([status, asyncExtraction], ['OK', true]);
        const task = await over(pathOf(taskHref));
        assert.deepEqual(
          [task['status'], task['exitCode'], task['submissionService'], task['statusMessage']],
          ['SUCCESSFUL', 0, `${core}/storages/${storage()}`, ''],
        );
        const { durationMillis, ...result } = task['result'] as Record<string, string>;
        assert.match(durationMillis!, /^\d+$/);
        assert.deepEqual(result, { documentsProcessed: '1', complete: 'true' });
        assert.deepEqual((await alice!('GET', `${files}/docs/page.html`)).body['metadata'], {
          ...{ kept: 'yes', resourceName: '/docs/page.html', 'Content-Type': 'text/html' },
          'Content-MD5': createHash('md5').update('<p>').digest('hex'),
        });
        assert.equal((await bob!('GET', pathOf(taskHref))).status, 403);
        const all = await alice!('POST', `/storages/${storage()}/actions/extract`, { body: {} });
        const whole = await over(pathOf(all.body['taskHref']));
        assert.ok(Number((whole['result'] as Record<string, string>)['documentsProcessed']) >= 2);
        const missing = await alice!('POST', `${files}/actions/extract/none`, { body: {} });
        assert.equal(missing.status, 404);
        const deep = await alice!('POST', action, { body: { depth: 1e6 } });
        assert.deepEqual([deep.status, deep.text.includes('depth')], [400, true]);
      });

    it('search several storages', async () => {
      const resources = [`${core}/storages/ARCHIVE`, `${core}/storages/${site}-SCRATCH`];
      const body = { query: 'page.html', advanced: false, resources };
      const { status, headers, text } = await alice!('POST', '/storages/search', { body });
      assert.equal(status, 201, text);
      const { result } = await over(pathOf(headers['location']));
      const { resourceCount, storageCount, ...others } = result as Record<string, string>;
      assert.deepEqual([resourceCount, storageCount], ['2', '2']);
      assert.deepEqual(
        [others['search-result-1'], others['search-result-2']],
        resources.map((url) => `${url}/files/docs/page.html`),
      );
      const foreign = { ...body, resources: ['https://elsewhere/rest/core/jobs/x'] };
      assert.equal((await alice!('POST', '/storages/search', { body: foreign })).status, 400);
    });

    it('copy directories behind the client’s back', async () => {
      const action = `/storages/${site}-SCRATCH/actions/copy-async`;
      const wish = { from: 'docs', to: 'copied' };
      const { body } = await alice!('POST', action, { body: wish });
      assert.equal((await over(pathOf(body['taskHref'])))['status'], 'SUCCESSFUL');
      const file = `/storages/${site}-SCRATCH/files/copied/deep/data.csv`;
      assert.equal((await alice!('GET', file, asBytes)).text, 'a,b');
      const abort = pathOf(body['taskHref']) + '/actions/abort';
      assert.equal((await alice!('POST', abort, { body: {} })).status, 204);
      assert.equal((await alice!('DELETE', pathOf(body['taskHref']))).status, 204);
    });
  });

  describe('files', () => {
    /** Where the server keeps what is Alice's. */
    const archive = (): string => {
      const base = join(rig.directory, 'archive');
      return join(
        base,
        readdirSync(base).find((name) => name.startsWith('alice-'))!,
      );
    };
    for (const [where, root, storage] of [
      ['in a target system', () => join(rig.directory, 'scratch'), () => `${site}-SCRATCH`],
      ['on the server', archive, () => 'ARCHIVE'],
    ] as const) {
      it(`of a large directory ${where} come in pages`, async () => {
        const directory = join(root(), 'large');
        mkdirSync(directory, { mode: 0o755 });
        for (let at = 0; at < 10_050; at++)
          writeFileSync(join(directory, String(at).padStart(6, '0')), '');
        const seen = new Set<string>();
        let next: string | undefined = `/storages/${storage()}/files/large?num=4000`;
        for (let pages = 1; next !== undefined; pages++) {
          const answer: Answer = await alice!('GET', next);
          assert.equal(answer.status, 200);
          for (const name of Object.keys(answer.body['content'] as object)) seen.add(name);
          const { href } = linksOf(answer)['next'] ?? {};
          next = href === undefined ? undefined : pathOf(href);
          assert.ok(pages <= 3);
        }
        assert.equal(seen.size, 10_050);
      });

      it(`${where} are sent only if they are what the client thinks`, async () => {
        const path = `/storages/${storage()}/files/etag/f`;
        await put(storage(), 'etag/f', 'first');
        clock.aheadMs += 10_000; // it cannot change again in the same second
        const { headers } = await alice!('GET', path, asBytes);
        const etag = String(headers['etag']);
        assert.match(etag, /^"[\w-]+"$/);
        const ask = async (more: Record<string, string>) =>
          (await alice!('GET', path, { headers: { ...asBytes.headers, ...more } })).status;
        assert.equal(await ask({ 'if-none-match': etag }), 304);
        assert.equal(await ask({ 'if-none-match': '"x"' }), 200);
        assert.equal(await ask({ 'if-match': '"x"' }), 412);
        assert.equal(await ask({ range: 'bytes=1-2', 'if-range': etag }), 206);
        assert.equal(await ask({ range: 'bytes=1-2', 'if-range': '"x"' }), 200);
        assert.equal(await ask({ range: 'bytes=0-1,3-4' }), 200, 'several ranges: the whole');
        assert.equal(await ask({ 'if-modified-since': new Date(clock.now()).toUTCString() }), 304);
        assert.equal((await put(storage(), 'etag/f', 'x', { 'if-none-match': '*' })).status, 412);
        assert.equal((await put(storage(), 'etag/new', 'x', { 'if-none-match': '*' })).status, 204);
        assert.equal((await put(storage(), 'etag/f', 'x', { 'if-match': '"x"' })).status, 412);
        assert.equal((await put(storage(), 'etag/f', 'second', { 'if-match': etag })).status, 204);
        assert.equal((await put(storage(), 'etag/none', 'x', { 'if-match': '*' })).status, 412);
      });

      it(`${where} can be gone on with`, async () => {
        await put(storage(), 'grow', '01234');
        assert.equal((await put(storage(), 'grow?offset=5', '567')).status, 204);
        const wrong = await put(storage(), 'grow?offset=5', '567');
        assert.deepEqual([wrong.status, wrong.text.includes('has 8 bytes')], [409, true]);
        assert.equal((await put(storage(), 'grow?append=true', '89')).status, 204);
        const { text } = await alice!('GET', `/storages/${storage()}/files/grow`, asBytes);
        assert.equal(text, '0123456789');
        assert.equal((await put(storage(), 'grow?offset=0', 'anew')).status, 204);
        assert.equal((await put(storage(), 'grow?offset=x', '')).status, 400);
      });
    }
  });
});
