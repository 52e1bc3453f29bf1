import assert from 'node:assert/strict';
import { existsSync, readFileSync, statSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { Scope } from '#kernel/scope.js';
import { until } from '../xnjs/job/rig.js';
import { login, pathOf, startRig, type Ask, type Rig } from './storages-rig.js';

const core = 'https://grid.example/TEST/rest/core';
const asBytes = { headers: { accept: 'application/octet-stream' } };

describe('storages by REST', { timeout: 120_000 }, () => {
  const scope = new Scope();
  let rig: Rig;
  let site: string;
  let [alice, bob, admin, nobody]: Ask[] = [];
  before(async () => {
    rig = await startRig(scope, {
      config: (directory) => ({
        shared: {
          ARCHIVE: { on: 'host', path: `${directory}/archive`, quotaMiB: 1, description: 'Kept' },
          SCRATCH: { on: 'target', path: `${directory}/scratch`, umask: '027' },
          ELSEWHERE: { on: 'target', path: '/mnt', images: ['Other'] },
        },
        factories: {
          DEFAULT: { on: 'target', path: `${directory}/scratch/made`, cleanup: true },
          KEPT: { on: 'target', path: `${directory}/scratch/kept` },
          HOST: { on: 'host', path: `${directory}/made`, maxLifetimeSeconds: 3600 },
        },
        perUser: 6,
        reaperIntervalMs: 50,
      }),
    });
    site = await rig.makeSite('CN=Alice,O=Grid');
    alice = rig.as('alice');
    bob = rig.as('bob');
    admin = rig.as('admin');
    nobody = rig.as('nobody');
  });
  after(() => scope.close());

  const made = async (ask: Ask, body: object, path = '/storages'): Promise<string> => {
    const { status, headers, text } = await ask('POST', path, { body });
    assert.equal(status, 201, text);
    return pathOf(headers['location']);
  };
  const ready = async (ask: Ask, path: string): Promise<void> =>
    until(`${path} is ready`, async () => {
      const { body } = await ask('GET', `${path}?fields=resourceStatus`);
      return (body['resourceStatus'] as string) === 'READY';
    });
  it('lists what the caller may read, in pages', async () => {
    const { body } = await alice!('GET', '/storages');
    const names = ['HOME', 'WORK', 'SCRATCH'].map((name) => `${core}/storages/${site}-${name}`);
    assert.deepEqual(body['storages'], [...names, `${core}/storages/ARCHIVE`]);
    const page = await alice!('GET', '/storages?num=2&offset=1');
    assert.deepEqual(page.body['storages'], names.slice(1));
    assert.deepEqual((await bob!('GET', '/storages')).body['storages'], [
      `${core}/storages/ARCHIVE`,
    ]);
    assert.deepEqual((await nobody!('GET', '/storages')).body['storages'], []);
    const links = (await alice!('GET', `/sites/${site}`)).body['_links'] as Record<string, object>;
    assert.deepEqual(
      Object.keys(links).filter((name) => name.startsWith('storage:')),
      ['storage:HOME', 'storage:WORK', 'storage:SCRATCH'],
    );
  });

  it('shows a storage as UNICORE does', async () => {
    const self = `${core}/storages/${site}-SCRATCH`;
    const { body } = await alice!('GET', `/storages/${site}-SCRATCH`);
    const { freeSpace, usableSpace, resourceStatusMessage, ...others } = body as Record<
      string,
      unknown
    >;
    assert.ok(Number(freeSpace) > 0 && typeof usableSpace === 'number');
    assert.equal(typeof resourceStatusMessage, 'string');
    const { _links, ...properties } = others;
    assert.deepEqual(properties, {
      owner: 'CN=Alice,O=Grid',
      acl: [],
      tags: [],
      description: 'Filesystem',
      protocols: ['BFT'],
      umask: '27',
      metadataSupported: true,
      filesystemDescription: `target system ${site}`,
      resourceStatus: 'READY',
      mountPoint: `${rig.directory}/scratch/`,
    });
    const links = _links as Record<string, { href: string }>;
    assert.deepEqual(
      Object.entries(links).map(([name, { href }]) => [name, href.slice(self.length)]),
      [
        ['self', ''],
        ['files', '/files'],
        ['action:copy', '/actions/copy'],
        ['action:rename', '/actions/rename'],
        ['metadata-search', '/search'],
        ['action:extract', '/actions/extract'],
      ],
    );
    const status = await alice!('GET', `/storages/${site}-SCRATCH?fields=resourceStatus`);
    assert.deepEqual(status.body, { resourceStatus: 'READY' });
    const shared = (await bob!('GET', '/storages/ARCHIVE')).body as Record<string, unknown>;
    assert.deepEqual(
      [shared['owner'], shared['acl'], shared['description'], shared['usableSpace']],
      ['CN=Server,O=Grid', ['write:ROLE:user'], 'Kept', 1024 * 1024],
    );
  });

  it('changes properties, each answering for itself', async () => {
    const path = `/storages/${site}-SCRATCH`;
    const { status, body } = await alice!('PUT', path, {
      body: {
        umask: '022',
        description: 'Mine',
        tags: 'a,b',
        acl: 'nonsense',
        terminationTime: '2030-01-01 00:00',
        colour: 'red',
      },
    });
    assert.equal(status, 200);
    const { acl, ...others } = body as Record<string, string>;
    assert.match(acl!, /^Error setting property: .*nonsense/);
    assert.deepEqual(others, {
      umask: 'OK',
      description: 'OK',
      tags: 'OK',
      terminationTime: 'Property not found or cannot be modified!',
      colour: 'Property not found or cannot be modified!',
    });
    const after = (await alice!('GET', path)).body as Record<string, unknown>;
    assert.deepEqual(
      [after['umask'], after['description'], after['tags']],
      ['22', 'Mine', ['a', 'b']],
    );
    assert.deepEqual((await alice!('GET', '/storages?tags=b')).body['storages'], [core + path]);
    await alice!('PUT', `${path}/files/by-umask`, { body: 'x' });
    assert.equal(statSync(join(rig.directory, 'scratch/by-umask')).mode & 0o777, 0o644);
    const wrong = await alice!('PUT', path, { body: { umask: '999', tags: [{}] } });
    for (const answer of Object.values(wrong.body as Record<string, string>))
      assert.match(answer, /^Error setting property: /);
    await alice!('DELETE', `${path}/files/by-umask`);
  });

  it('gives others what the ACL says', async () => {
    const path = await made(alice!, { type: 'HOST', name: 'shared' });
    await ready(alice!, path);
    await alice!('PUT', `${path}/files/f`, { body: 'x' });
    const grant = async (acl: string[]): Promise<void> => {
      const { body } = await alice!('PUT', path, { body: { acl } });
      assert.deepEqual(body, { acl: 'OK' });
    };
    const allowed = async (ask: Ask): Promise<string> => {
      const answers = [
        await ask('GET', `${path}/files/f`, asBytes),
        await ask('PUT', `${path}/files/g`, { body: 'y' }),
        await ask('PUT', path, { body: { description: 'd' } }),
        await ask('DELETE', path),
      ];
      return answers.map(({ status }) => (status === 403 ? '-' : 'x')).join('');
    };
    assert.equal(await allowed(bob!), '----');
    await grant(['read:DN: o=grid + ou=x, cn=bob'.replace(' + ou=x', '')]);
    assert.equal(await allowed(bob!), '----', 'the order of a name counts');
    await grant(['read:DN:cn=bob, o=grid']);
    assert.equal(await allowed(bob!), 'x---');
    assert.ok(JSON.stringify((await bob!('GET', '/storages')).body).includes(path));
    await grant(['write:UID:bob']);
    assert.equal(await allowed(bob!), 'xx--');
    await grant(['modify:ROLE:user']);
    assert.equal(await allowed(bob!), 'xxx-');
    const { body } = await bob!('PUT', path, { body: { acl: ['modify:DN:CN=Bob,O=Grid'] } });
    assert.match(String(body['acl']), /only the owner/);
    await grant(['modify:ROLE:anonymous', 'modify:GROUP:g', 'modify:VO:v']);
    assert.equal(await allowed(bob!), '----');
    assert.equal(await allowed(nobody!), '----');
    assert.equal(await allowed(admin!), 'xxxx');
  });

  it('knows no storage by guessing', async () => {
    const ids = [
      'HOME',
      'SCRATCH',
      'nope',
      'constructor',
      '__proto__',
      `${site}-uspace`,
      `${site}-NOPE`,
      `${site}-ELSEWHERE`,
      `${site}-ARCHIVE`,
      '11111111-1111-4111-8111-111111111111',
      '11111111-1111-4111-8111-111111111111-HOME',
      '..%2f..%2fetc',
      'x'.repeat(70),
    ];
    for (const id of ids)
      for (const path of [`/storages/${id}`, `/storages/${id}/files`, `/storages/${id}/search?q=a`])
        assert.equal((await alice!('GET', path)).status, 404, path);
    for (const path of ['/storages/ARCHIVE', `/storages/${site}-HOME`]) {
      assert.equal((await alice!('DELETE', path)).status, 403, path);
      assert.equal((await admin!('DELETE', path)).status, 403, path);
    }
    assert.equal((await alice!('PUT', '/storages/ARCHIVE', { body: { umask: '0' } })).status, 403);
    const { body } = await admin!('PUT', '/storages/ARCHIVE', { body: { umask: '007' } });
    assert.deepEqual(body, { umask: 'OK' });
  });

  describe('made by users', () => {
    it('are described by their factories', async () => {
      const { body } = await nobody!('GET', '/storagefactories');
      const names = ['DEFAULT', 'KEPT', 'HOST', 'default_storage_factory'];
      assert.deepEqual(
        body['storagefactories'],
        names.map((name) => `${core}/storagefactories/${name}`),
      );
      const one = (await alice!('GET', '/storagefactories/HOST')).body as Record<string, object>;
      assert.deepEqual(one['description'], 'Files on the server');
      assert.deepEqual(Object.keys(one['parameters']!), [
        'description',
        'umask',
        'disableMetadata',
      ]);
      const all = (await alice!('GET', '/storagefactories/default_storage_factory')).body;
      assert.deepEqual(Object.keys(all['storageDescriptions'] as object), [
        'DEFAULT',
        'KEPT',
        'HOST',
      ]);
      assert.equal((await alice!('GET', '/storagefactories/NOPE')).status, 404);
    });

    it('live on a target system and go with their directory', async () => {
      const path = await made(alice!, {
        parameters: { description: 'mine', umask: '022', targetSystem: site },
        tags: ['t'],
        terminationTime: '2037-01-01 00:00',
      });
      await ready(alice!, path);
      const id = path.split('/').at(-1)!;
      const shown = (await alice!('GET', path)).body as Record<string, unknown>;
      const directory = join(rig.directory, 'scratch/made', id);
      assert.deepEqual(
        [
          shown['description'],
          shown['umask'],
          shown['tags'],
          shown['terminationTime'],
          shown['mountPoint'],
        ],
        ['mine', '22', ['t'], '2037-01-01T00:00:00+0000', `${directory}/`],
      );
      assert.ok(JSON.stringify(shown['_links']).includes('/storagefactories/DEFAULT'));
      assert.ok((await alice!('GET', '/storages')).text.includes(path));
      assert.equal((await alice!('PUT', `${path}/files/f`, { body: 'x' })).status, 204);
      assert.equal((await bob!('GET', path)).status, 403);
      assert.equal((await bob!('DELETE', path)).status, 403);
      assert.equal((await alice!('DELETE', path)).status, 204);
      for (const below of ['', '/files', '/files/f'])
        assert.equal((await alice!('GET', path + below)).status, 404);
      await until('its directory is gone', () => !existsSync(directory));
    });

    it('may show a directory of the user’s, which stays', async () => {
      const own = join(rig.directory, 'scratch', 'own dir');
      const path = await made(alice!, { parameters: { path: own } }, '/storagefactories/DEFAULT');
      await ready(alice!, path);
      await alice!('PUT', `${path}/files/f`, { body: 'kept' });
      await alice!('DELETE', path);
      assert.equal((await alice!('GET', path)).status, 404);
      assert.equal(readFileSync(join(own, 'f'), 'utf8'), 'kept');
      const nowhere = await made(alice!, { parameters: { path: '$NOT_SET_ANYWHERE/x' } });
      await until('it fails', async () => {
        const { body } = await alice!('GET', nowhere);
        return (body['resourceStatus'] as string) === 'ERROR';
      });
      assert.match(
        String((await alice!('GET', nowhere)).body['resourceStatusMessage']),
        /could not be made: .*NOT_SET_ANYWHERE/,
      );
      await alice!('DELETE', nowhere);
    });

    it('live on the host without a target system, for their time', async () => {
      const path = await made(bob!, { type: 'HOST' }, '/storagefactories/default_storage_factory');
      await ready(bob!, path);
      await bob!('PUT', `${path}/files/a/b`, { body: 'x' });
      const shown = (await bob!('GET', path)).body as Record<string, unknown>;
      assert.ok(shown['terminationTime'], 'the type has a longest life');
      assert.equal(shown['filesystemDescription'], 'this server');
      const directory = join(rig.directory, 'made', path.split('/').at(-1)!);
      assert.ok(existsSync(join(directory, 'a/b')));
      symlinkSync('/etc/passwd', join(directory, 'leak'));
      assert.equal((await bob!('GET', `${path}/files/leak`, asBytes)).status, 400);
      const change = (terminationTime: string) => bob!('PUT', path, { body: { terminationTime } });
      assert.match(
        String((await change('2037-01-01 00:00')).body['terminationTime']),
        /later than this type/,
      );
      assert.deepEqual((await change('2020-01-01 00:00')).body, { terminationTime: 'OK' });
      await until('it expires', async () => (await bob!('GET', path)).status === 404);
      await until('its directory is gone', () => !existsSync(directory));
    });

    const wrong = [
      [{ type: 'NOPE' }, /type: "NOPE" is none of DEFAULT, KEPT, HOST/],
      [{ parameters: { colour: 'red' } }, /parameters: .*colour/],
      [{ parameters: { umask: '999' } }, /parameters: umask/],
      [{ parameters: { enableTrigger: 'true' } }, /enableTrigger.*not supported/],
      [{ parameters: { path: 'relative' } }, /parameters: path/],
      [{ parameters: { targetSystem: 'nope' } }, /targetSystem/],
      [{ type: 'HOST', parameters: { path: '/etc' } }, /path/],
      [{ type: 'HOST', terminationTime: '2037-01-01 00:00' }, /terminationTime/],
      [{ terminationTime: 'soon' }, /terminationTime/],
    ] as const;
    for (const [body, reason] of wrong)
      it(`are refused: ${JSON.stringify(body)}`, async () => {
        const { status, body: answer } = await alice!('POST', '/storages', { body });
        assert.equal(status, 400);
        assert.match(String(answer['errorMessage']), reason);
      });

    it('are refused on what is another’s, to strangers and beyond the limit', async () => {
      const foreign = await bob!('POST', '/storages', {
        body: { parameters: { targetSystem: site } },
      });
      assert.equal(foreign.status, 400);
      assert.equal((await nobody!('POST', '/storages', { body: {} })).status, 403);
      const statuses = await Promise.all(
        Array.from(
          { length: 8 },
          async () => (await bob!('POST', '/storages', { body: { type: 'HOST' } })).status,
        ),
      );
      assert.deepEqual(statuses.sort(), [201, 201, 201, 201, 201, 201, 400, 400]);
    });
  });

  it('shows the directory of a job, without metadata', async () => {
    const job = await made(alice!, { Executable: 'echo hello' }, `/sites/${site}/jobs`);
    const path = `/storages/${job.split('/').at(-1)}-uspace`;
    await until('the job is over', async () => {
      const { body } = await alice!('GET', job);
      return ['SUCCESSFUL', 'FAILED'].includes(String(body['status']));
    });
    assert.equal((await alice!('GET', `${path}/files/stdout`, asBytes)).text, 'hello\n');
    assert.equal((await bob!('GET', `${path}/files/stdout`, asBytes)).status, 403);
    const shown = (await alice!('GET', path)).body as Record<string, unknown>;
    assert.equal(shown['metadataSupported'], false);
    assert.equal((await alice!('GET', `${path}/search?q=a`)).status, 404);
    const { body } = await alice!('PUT', `${path}/files/stdout`, {
      body: { metadata: { a: 'b' } },
    });
    assert.deepEqual(body, { metadata: 'Metadata is not supported for this storage.' });
    assert.ok((await alice!('GET', '/storages?filter=all')).text.includes(path));
    assert.ok(!(await alice!('GET', '/storages')).text.includes(path));
    const work = await alice!('GET', `/storages/${site}-WORK/files`);
    assert.ok(work.text.includes(job.split('/').at(-1)!));
    assert.equal(
      login,
      (work.body['content'] as Record<string, { owner: string }>)[`/${job.split('/').at(-1)}/`]!
        .owner,
    );
  });

  it('go with their target system', async () => {
    const id = await rig.makeSite('CN=Alice,O=Grid');
    const path = await made(alice!, { type: 'KEPT', parameters: { targetSystem: id } });
    await ready(alice!, path);
    await alice!('DELETE', `/sites/${id}`);
    await until(
      'the machine is gone',
      async () => (await alice!('GET', `/sites/${id}`)).status === 404,
    );
    assert.equal((await alice!('GET', `/storages/${id}-HOME`)).status, 404);
    await until('it is in trouble', async () => {
      const { body } = await alice!('GET', path);
      return (body['resourceStatus'] as string) === 'ERROR';
    });
    assert.equal((await alice!('GET', `${path}/files`)).status, 404);
    assert.equal((await alice!('DELETE', path)).status, 204);
    await until('it is gone', async () => !(await alice!('GET', '/storages')).text.includes(path));
  });
});
