import assert from 'node:assert/strict';
import { mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { Scope } from '#kernel/scope.js';
import { until } from '../xnjs/job/rig.js';
import { callers, pathOf, startRig, type Answer, type Ask, type Rig } from './storages-rig.js';

const outs = [
  '../secret',
  'a/../../secret',
  '%2e%2e/secret',
  '%2e%2e%2fsecret',
  '..%2fsecret',
  '%252e%252e%252fsecret',
  '..%5csecret',
  '..\\secret',
  '.%00./secret',
  'x%00/../../secret',
  '%c0%ae%c0%ae/secret',
  '%e0%80%ae%e0%80%ae/secret',
  '/etc/passwd',
  '%2fetc%2fpasswd',
  '//etc/passwd',
  'link/secret',
  'link',
  'a%0a../secret',
  '....//secret',
];
const bytes = { headers: { accept: 'application/octet-stream' } };
const theirs = /TOP SECRET|root:x:0/;
const overwritten = { body: 'overwritten' };

describe('no path leads out', { timeout: 120_000 }, () => {
  const scope = new Scope();
  let rig: Rig;
  let [alice, reader]: Ask[] = [];
  /** On the host for all users, on the host for one, and in a target system. */
  let places: string[] = [];
  const secrets = ['secret', 'made/secret', 'archive/secret'];

  before(async () => {
    rig = await startRig(scope, {
      config: (directory) => ({
        shared: { ARCHIVE: { on: 'host', path: `${directory}/archive` } },
        factories: { HOST: { on: 'host', path: `${directory}/made` } },
      }),
    });
    [alice, reader] = [rig.as('alice'), rig.as('reader')];
    const site = await rig.makeSite(callers.alice.dn);
    const storage = idOf(await alice('POST', '/storages', { body: { type: 'HOST' } }));
    places = [`/storages/${storage}`, '/storages/ARCHIVE', `/storages/${site}-WORK`];
    await until('the storage is ready', async () => {
      const { body } = await alice!('GET', `/storages/${storage}`);
      return body['resourceStatus'] === 'READY';
    });
    for (const place of places)
      assert.equal((await alice('PUT', `${place}/files/mine`, { body: 'mine' })).status, 204);
    for (const path of secrets) {
      mkdirSync(dirname(join(rig.directory, path)), { recursive: true });
      writeFileSync(join(rig.directory, path), 'TOP SECRET');
    }
    // in a target system a link leads wherever its user may go in any case
    for (const path of ['made', 'archive'].flatMap((top) =>
      findAll(join(rig.directory, top), 'mine'),
    ))
      symlinkSync(rig.directory, join(dirname(path), 'link'));
  });
  after(() => scope.close());

  function untouched(what: string): void {
    for (const path of secrets)
      assert.equal(readFileSync(join(rig.directory, path), 'utf8'), 'TOP SECRET', what);
  }
  async function nothingStolen(place: string, what: string): Promise<void> {
    const { text } = await alice!('GET', `${place}/files/stolen`, bytes);
    assert.doesNotMatch(text, theirs, what);
  }

  for (const out of outs)
    it(`${JSON.stringify(out)}: in addresses of files, copies and renames`, async () => {
      for (const place of places) {
        const onHost = !place.includes('WORK');
        const url = `${place}/files/${out}`;
        const answers = [
          await alice!('GET', url, bytes),
          await alice!('GET', url),
          await alice!('PUT', url, overwritten),
          await alice!('POST', url),
          await alice!('DELETE', url),
          await alice!('POST', `${place}/files/actions/extract/${out}`),
        ];
        for (const { status, text } of answers) {
          assert.ok(status < 500, `${url}: ${status} ${text}`);
          assert.doesNotMatch(text, theirs, url);
        }
        const name = decode(out);
        for (const action of ['copy', 'rename'])
          for (const body of [
            { from: name, to: 'stolen' },
            { from: 'mine', to: name },
          ]) {
            const { status } = await alice!('POST', `${place}/actions/${action}`, { body });
            assert.ok(status < 500, `${action} ${JSON.stringify(body)}: ${status}`);
            // what was moved inside is put back
            if (onHost) await alice!('PUT', `${place}/files/mine`, { body: 'mine' });
          }
        await nothingStolen(place, url);
      }
      untouched(out);
    });

  for (const out of outs)
    it(`${JSON.stringify(out)}: in what is sent and fetched without login, and shared`, async () => {
      for (const place of places.slice(0, 2))
        for (const file of new Set([out, decode(out)])) {
          const exported = await alice!('POST', `${place}/exports`, { body: { file } });
          if (exported.status === 200) {
            const { text } = await rig.as('nobody')('GET', access(exported));
            assert.doesNotMatch(text, theirs, file);
          }
          const imported = await alice!('POST', `${place}/imports`, { body: { file } });
          if (imported.status === 200) await alice!('PUT', access(imported), overwritten);
          const path = `/${basename(place)}/${file}`;
          const body = { user: callers.reader.dn, path, access: 'WRITE' };
          const shared = await alice!('POST', '/rest/share/TEST', { body });
          for (const { status } of [exported, imported, shared])
            assert.ok(status < 500, `${file}: ${status}`);
          if (shared.status !== 201) continue;
          const at = `/rest/access/TEST/${idOf(shared)}`;
          assert.doesNotMatch((await reader!('GET', at, bytes)).text, theirs, path);
          await reader!('PUT', at, overwritten);
        }
      untouched(out);
    });

  it('from a directory that is shared', async () => {
    for (const place of places.slice(0, 2)) {
      const path = `/${basename(place)}/common`;
      await alice!('POST', `${place}/files/common`);
      const body = { user: callers.reader.dn, path, access: 'WRITE' };
      const at = `/rest/access/TEST/${idOf(await alice!('POST', '/rest/share/TEST', { body }))}`;
      for (const out of [...outs, '../mine', '..%2fmine', '%2e%2e/mine', '../link/secret']) {
        const { text } = await reader!('GET', `${at}/${out}`, bytes);
        assert.doesNotMatch(text, theirs, out);
        assert.notEqual(text, 'mine', out);
        await reader!('PUT', `${at}/${out}`, overwritten);
        untouched(out);
        assert.equal((await alice!('GET', `${place}/files/mine`, bytes)).text, 'mine', out);
      }
    }
  });

  it('in transfers between storages, at either end', async () => {
    const [own = '', archive = ''] = places;
    const address = (place: string, path: string): string =>
      `https://grid.example/TEST/rest/core${place}/files/${path}`;
    const wishes = outs.flatMap((out) => [
      { file: decode(out), source: address(archive, 'mine') },
      { file: decode(out), target: address(archive, 'stolen') },
      { file: 'stolen', source: address(archive, out) },
      { file: 'mine', target: address(archive, out) },
    ]);
    const ids: string[] = [];
    for (const body of wishes) {
      const answer = await alice!('POST', `${own}/transfers`, { body });
      assert.ok(answer.status < 500, `${JSON.stringify(body)}: ${answer.text}`);
      if (answer.status === 201) ids.push(idOf(answer));
    }
    assert.ok(ids.length > 0);
    for (const id of ids)
      await until('it is over', async () => {
        const { status } = (await alice!('GET', `/transfers/${id}`)).body;
        return status === 'DONE' || status === 'FAILED';
      });
    for (const place of [own, archive]) await nothingStolen(place, place);
    untouched('transfers');
  });

  it('in what is searched, and in what storages are made of', async () => {
    const resources = outs.map((out) => `https://grid.example/TEST/rest/core/storages/${out}`);
    const { status } = await alice!('POST', '/storages/search', {
      body: { query: 'TOP', resources },
    });
    assert.ok(status < 500);
    for (const out of outs)
      for (const parameters of [{ path: out }, { path: decode(out) }]) {
        const made = await alice!('POST', '/storagefactories/HOST', { body: { parameters } });
        if (made.status !== 201) continue;
        const place = `/storages/${idOf(made)}`;
        assert.doesNotMatch((await alice!('GET', `${place}/files`)).text, /secret|passwd/, out);
        await alice!('DELETE', place);
      }
    untouched('storages');
  });
});

const access = ({ body }: Answer): string => pathOf(body['accessURL']);

/** The last part of the address of what was made. */
function idOf({ status, headers, text }: Answer): string {
  assert.equal(status, 201, text);
  return pathOf(headers['location']).split('/').at(-1)!;
}

function decode(path: string): string {
  try {
    return decodeURIComponent(path);
  } catch {
    return path;
  }
}

/** Paths of the files of that name below a directory. */
function findAll(directory: string, name: string): string[] {
  return readdirSync(directory, { recursive: true, encoding: 'utf8' })
    .filter((path) => basename(path) === name)
    .map((path) => join(directory, path));
}
