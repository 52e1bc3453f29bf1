import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { Scope } from '#kernel/scope.js';
import { pathOf, startRig, type Ask, type Rig } from './storages-rig.js';

const core = 'https://grid.example/TEST/rest/core';
const asBytes = { headers: { accept: 'application/octet-stream' } };

describe('files by REST', { timeout: 120_000 }, () => {
  const scope = new Scope();
  let rig: Rig;
  let site: string;
  let [alice, bob, nobody]: Ask[] = [];
  before(async () => {
    rig = await startRig(scope, {
      config: (directory) => ({
        shared: {
          ARCHIVE: { on: 'host', path: `${directory}/archive`, quotaMiB: 1, description: 'Kept' },
          SCRATCH: { on: 'target', path: `${directory}/scratch`, umask: '027' },
        },
      }),
    });
    site = await rig.makeSite('CN=Alice,O=Grid');
    alice = rig.as('alice');
    bob = rig.as('bob');
    nobody = rig.as('nobody');
  });
  after(() => scope.close());

  const contents = async (ask: Ask, path: string): Promise<string[]> =>
    Object.keys((await ask('GET', path)).body['content'] ?? {});

  const roots = [
    ['a target system', () => `/storages/${site}-SCRATCH`],
    ['the host', () => '/storages/ARCHIVE'],
  ] as const;
  for (const [where, storage] of roots)
    describe(`files on ${where}`, () => {
      const files = (path = ''): string => `${storage()}/files${path}`;

      it('go up and come down, whole and in ranges', async () => {
        const put = await alice!('PUT', files('/dir/in.txt'), { body: '0123456789' });
        assert.equal(put.status, 204, put.text);
        const whole = await alice!('GET', files('/dir/in.txt'), asBytes);
        assert.deepEqual(
          [
            whole.status,
            whole.text,
            whole.headers['content-type'],
            whole.headers['content-length'],
          ],
          [200, '0123456789', 'application/octet-stream', '10'],
        );
        for (const [range, expected] of [
          ['bytes=0-3', '0123'],
          ['bytes=7-', '789'],
          ['bytes=-2', '89'],
        ] as const) {
          const headers = { ...asBytes.headers, range };
          const part = await alice!('GET', files('/dir/in.txt'), { headers });
          assert.deepEqual([part.status, part.text], [206, expected]);
        }
        const headers = { ...asBytes.headers, range: 'bytes=20-' };
        assert.equal((await alice!('GET', files('/dir/in.txt'), { headers })).status, 416);
        await alice!('PUT', files('/dir/empty'), { body: '' });
        const first = { ...asBytes.headers, range: 'bytes=0-9' };
        const empty = await alice!('GET', files('/dir/empty'), { headers: first });
        assert.deepEqual([empty.status, empty.text], [200, '']);
        const head = await alice!('HEAD', files('/dir/in.txt'), asBytes);
        assert.deepEqual([head.status, head.text, head.headers['content-length']], [200, '', '10']);
        assert.equal((await alice!('GET', files('/dir'), asBytes)).status, 406);
        assert.equal((await alice!('GET', files('/nope'), asBytes)).status, 404);
        await alice!('DELETE', files('/dir'));
      });

      it('are changed by JSON and by nothing that only begins like it', async () => {
        const put = (type: string, body: string) =>
          alice!('PUT', files('/types/file'), { body, headers: { 'content-type': type } });
        const text = async () => (await alice!('GET', files('/types/file'), asBytes)).text;
        for (const type of ['application/jsonl', 'application/json-seq', 'application/json+x'])
          for (const body of [`{"permissions":"rwx------"}`, type]) {
            assert.equal((await put(type, body)).status, 204, type);
            assert.equal(await text(), body);
          }
        const change = '{"permissions":"rw-r-----"}';
        for (const type of ['Application/JSON', 'application/json ; charset=utf-8']) {
          const { status, body } = await put(type, change);
          assert.deepEqual([status, body], [200, { permissions: 'OK' }], type);
        }
        assert.equal(await text(), 'application/json+x');
        await alice!('DELETE', files('/types'));
      });

      it('are shown and listed as UNICORE does', async () => {
        await alice!('PUT', files('/list/a.txt'), { body: 'a' });
        await alice!('PUT', files('/list/b/c'), { body: 'c' });
        const file = (await alice!('GET', files('/list/a.txt'))).body as Record<string, unknown>;
        const { lastAccessed, owner, group, permissions, _links, ...others } = file;
        assert.match(String(lastAccessed), /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+0000$/);
        assert.match(String(permissions), /^rw[r-]{7}$|^rw-[r-]--[r-]--$/);
        assert.ok(owner && group);
        assert.deepEqual(others, { isDirectory: false, size: 1, metadata: {} });
        assert.ok(Object.hasOwn(_links as object, 'parentStorage'));
        assert.deepEqual(await contents(alice!, files('/list')), ['/list/a.txt', '/list/b/']);
        const page = (await alice!('GET', files('/list?num=1'))).body as Record<
          string,
          Record<string, { href: string }>
        >;
        assert.deepEqual(Object.keys(page['content']!), ['/list/a.txt']);
        const next = page['_links']!['next']!.href;
        const second = (await alice!('GET', pathOf(next))).body as typeof page;
        assert.deepEqual(Object.keys(second['content']!), ['/list/b/']);
        assert.ok(!Object.hasOwn(second['_links']!, 'next'));
        for (const root of [files(), files('/'), files('//')])
          assert.ok((await contents(alice!, root)).includes('/list/'), root);
        await alice!('DELETE', files('/list'));
      });

      it('are made, renamed, copied and removed', async () => {
        const made = await alice!('POST', files('/sub/deep'), { body: {} });
        assert.deepEqual([made.status, made.headers['location']], [201, core + files('/sub/deep')]);
        assert.equal((await alice!('POST', files('/sub/deep'))).status, 201);
        await alice!('PUT', files('/x'), { body: 'x' });
        const act = (action: string, body: object) =>
          alice!('POST', `${storage()}/actions/${action}`, { body });
        assert.equal((await act('copy', { from: 'x', to: 'sub/y' })).status, 204);
        assert.equal((await act('rename', { from: '/sub/y', to: 'sub/deep/z' })).status, 204);
        assert.deepEqual(await contents(alice!, files('/sub/deep')), ['/sub/deep/z']);
        assert.equal((await act('rename', { from: 'x' })).status, 400);
        assert.equal((await act('rename', { from: 'nope', to: 'y' })).status, 404);
        assert.equal((await act('extinguish', { from: 'x', to: 'y' })).status, 404);
        assert.equal((await alice!('DELETE', files('/sub'))).status, 204);
        assert.equal((await alice!('DELETE', files('/x'))).status, 204);
        assert.equal((await alice!('DELETE', files('/x'))).status, 204);
        assert.equal((await alice!('DELETE', files('/'))).status, 400);
      });

      it('may have any name that a path can say', async () => {
        for (const name of ['a b', "it's", '50%', '%2e%2e', '$HOME', 'ü 😀', '?#', '"*"', '-rf']) {
          const path = files(`/names/${encodeURIComponent(name)}`);
          assert.equal((await alice!('PUT', path, { body: name })).status, 204, name);
          assert.equal((await alice!('GET', path, asBytes)).text, name);
          assert.deepEqual(await contents(alice!, files('/names')), [`/names/${name}`]);
          await alice!('DELETE', path);
        }
        for (const name of ['a%0Ab', 'a%00b', 'a%0Db', 'x'.repeat(300)])
          assert.equal(
            (await alice!('PUT', files(`/names/${name}`), { body: '' })).status,
            where === 'the host' || name.length < 20 ? 400 : 500,
            name,
          );
        assert.equal((await alice!('GET', files('/names/%ff'))).status, 400);
        await alice!('DELETE', files('/names'));
      });

      it('never lie outside', async () => {
        for (const path of ['../x', '..%2fx', '%2e%2e/x', 'a/../../x', '..%5cx', 'a%2f..%2f..%2fx'])
          for (const [method, how] of [
            ['GET', {}],
            ['GET', asBytes],
            ['PUT', { body: 'x' }],
            ['PUT', { body: { permissions: 'rwx' } }],
            ['POST', {}],
            ['DELETE', {}],
          ] as const) {
            const { status, body } = await alice!(method, `${files()}/${path}`, how);
            assert.equal(status, 400, `${method} ${path}`);
            assert.match(String(body['errorMessage']), /leads out/);
          }
        for (const action of ['rename', 'copy'])
          for (const body of [
            { from: '../x', to: 'y' },
            { from: 'y', to: '/../../x' },
            { from: '..\\x', to: 'y' },
          ])
            assert.notEqual(
              (await alice!('POST', `${storage()}/actions/${action}`, { body })).status,
              204,
            );
      });

      it('change permissions and metadata, each answering for itself', async () => {
        await alice!('PUT', files('/f'), { body: 'x' });
        const change = async (body: object) =>
          (await alice!('PUT', files('/f'), { body })).body as Record<string, string>;
        assert.deepEqual(await change({ permissions: 'rw-rw-' }), { permissions: 'OK' });
        assert.deepEqual(await change({ unixPermissions: 'rwxr-----' }), { permissions: 'OK' });
        const shown = async () =>
          (await alice!('GET', files('/f'))).body as Record<string, unknown>;
        assert.equal((await shown())['permissions'], 'rwxr-----');
        await change({ permissions: '0640' });
        assert.equal((await shown())['permissions'], 'rw-r-----');
        const answers = await change({
          permissions: 'x',
          group: 'no such group',
          colour: 1,
          metadata: { a: [] },
        });
        assert.deepEqual(Object.keys(answers), ['permissions', 'group', 'colour', 'metadata']);
        for (const answer of Object.values(answers)) assert.match(answer, /^FAILED: ./);
        assert.deepEqual(await change({ metadata: { project: 'grid', year: 2026 } }), {
          metadata: 'OK',
        });
        assert.deepEqual((await shown())['metadata'], { project: 'grid', year: '2026' });
        assert.ok(!(await contents(alice!, files())).some((name) => name.includes('metadata')));
        await change({ metadata: { 'Content-Type': 'text/plain\n;a' } });
        const bytes = await alice!('GET', files('/f'), asBytes);
        assert.equal(bytes.headers['content-type'], 'application/octet-stream');
        assert.deepEqual(await change({ metadata: {} }), { metadata: 'OK' });
        assert.deepEqual((await shown())['metadata'], {});
        const missing = await alice!('PUT', files('/nope'), { body: { permissions: 'rwx' } });
        assert.equal(missing.status, 404);
        await alice!('DELETE', files('/f'));
      });

      it('are found by name and by metadata, which goes along with them', async () => {
        const headers = { 'content-type': 'text/plain' };
        await alice!('PUT', files('/docs/Report 1.txt'.replace(' ', '%20')), {
          body: 'r',
          headers,
        });
        await alice!('PUT', files('/docs/data.bin'), { body: 'd' });
        await alice!('PUT', files('/docs/data.bin'), {
          body: { metadata: { project: 'Grid middleware', year: 2026 } },
        });
        const find = async (q: string): Promise<string[]> => {
          const { status, body, text } = await alice!(
            'GET',
            `${storage()}/search?q=${encodeURIComponent(q)}`,
          );
          assert.equal(status, 200, text);
          assert.deepEqual([body['status'], body['complete']], ['OK', true]);
          const links = Object.entries(body['_links'] as Record<string, { href: string }>);
          assert.equal(body['numberOfResults'], links.length);
          assert.ok(links.every(([name], at) => name === `search-result-${at + 1}`));
          return links.map(([, { href }]) => href.slice((core + files()).length)).sort();
        };
        const [report, data] = ['/docs/Report%201.txt', '/docs/data.bin'];
        assert.deepEqual(await find('report'), [report]);
        assert.deepEqual(await find('*.bin'), [data]);
        assert.deepEqual(await find('Content-Type:text*'), [report]);
        assert.deepEqual(await find('project:middleware AND year:>2025'), [data]);
        assert.deepEqual(await find('project:"grid middleware" OR name:Report*'), [report, data]);
        assert.deepEqual(await find('docs AND NOT project:grid'), [report]);
        assert.deepEqual(await find('nowhere'), []);
        for (const q of ['', '(', 'a:/x(y+)+$/', 'x'.repeat(300)])
          assert.equal(
            (await alice!('GET', `${storage()}/search?q=${encodeURIComponent(q)}`)).status,
            400,
            q,
          );
        assert.equal((await alice!('GET', `${storage()}/search`)).status, 400);
        const typed = await alice!('GET', files(report), asBytes);
        assert.deepEqual(
          [typed.headers['content-type'], typed.headers['content-security-policy']],
          ['text/plain', 'sandbox'],
        );
        const move = { body: { from: 'docs/data.bin', to: 'moved.bin' } };
        await alice!('POST', `${storage()}/actions/rename`, move);
        assert.deepEqual(await find('project:grid'), ['/moved.bin']);
        await alice!('DELETE', files('/moved.bin'));
        await alice!('DELETE', files('/docs'));
        assert.deepEqual(await find('*'), []);
      });

      it('are nobody else’s', async () => {
        await alice!('PUT', files('/secret'), { body: 'mine' });
        for (const [method, how] of [
          ['GET', {}],
          ['GET', asBytes],
          ['PUT', { body: 'x' }],
          ['DELETE', {}],
          ['POST', {}],
        ] as const) {
          const { status } = await bob!(method, files('/secret'), how);
          if (where === 'the host')
            assert.ok(status === 404 || status < 300, `${method}: ${status}`);
          else assert.equal(status, 403, method);
          assert.equal((await nobody!(method, files('/secret'), how)).status, 403, method);
        }
        assert.equal((await alice!('GET', files('/secret'), asBytes)).text, 'mine');
        await alice!('DELETE', files('/secret'));
      });
    });

  it('keeps the quota of the host, for each user', async () => {
    const big = 'x'.repeat(700 * 1024);
    const put = (ask: Ask, name: string) =>
      ask('PUT', `/storages/ARCHIVE/files/${name}`, { body: big });
    assert.equal((await put(alice!, 'a')).status, 204);
    const full = await put(alice!, 'b');
    assert.deepEqual([full.status, full.body['status']], [507, 507]);
    assert.equal((await put(bob!, 'a')).status, 204);
    assert.equal((await put(alice!, 'a')).status, 507, 'old and new are there for a moment');
    for (const ask of [alice!, bob!]) await ask('DELETE', '/storages/ARCHIVE/files/a');
    const names = readdirSync(join(rig.directory, 'archive')).filter(
      (name) => !name.startsWith('.'),
    );
    assert.match(names.sort().join(' '), /^alice-[0-9a-f]{16} bob-[0-9a-f]{16}$/);
  });
});
