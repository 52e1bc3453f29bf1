import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { text } from 'node:stream/consumers';
import { after, before, describe, it } from 'node:test';
import { Scope } from '#kernel/scope.js';
import { TsiFileSpace } from '#xnjs/files/tsi-file-space.js';
import type { Tsi } from '#xnjs/tsi/tsi.js';
import { Agent, identity, linkTo, scratch, until } from '../job/rig.js';

const bytes = (content: string): Readable => Readable.from([Buffer.from(content)]);

describe('files through a real agent', { timeout: 60_000 }, () => {
  const scope = new Scope();
  let files: TsiFileSpace;
  let root: string;
  let tsi: () => Tsi;
  before(async () => {
    const directory = scratch(scope);
    root = join(directory, 'jobs', 'my files');
    const agent = new Agent(directory);
    scope.defer(() => agent.kill());
    await agent.start();
    const connection = linkTo(scope, agent.socket);
    await until('link is up', () => connection.link.state === 'up');
    ({ tsi } = connection);
    files = new TsiFileSpace({ root: `${root}/`, identity, tsi, umask: '027' });
    await files.mkdir('/');
  });
  after(() => scope.close());

  const names = [
    'plain',
    "it's",
    '$HOME',
    '$(id) `id`',
    '-rf',
    'a b  c',
    'ünï 😀',
    '#TSI_PING',
    '"*?',
  ];
  for (const name of names)
    it(`writes, lists, reads, renames, copies and removes "${name}"`, async () => {
      assert.equal(await files.write(`in/${name}/${name}`, bytes('12345')), 5);
      assert.equal(readFileSync(join(root, 'in', name, name), 'utf8'), '12345');
      assert.equal(statSync(join(root, 'in', name, name)).mode & 0o777, 0o640);
      assert.equal(statSync(join(root, 'in', name)).mode & 0o777, 0o750);
      await files.write(`in/${name}/${name}`, bytes('67'), { append: true });
      assert.equal(await text(files.read(`/in/${name}/${name}`)), '1234567');
      assert.equal(await text(files.read(`/in/${name}/${name}`, { offset: 2, length: 3 })), '345');
      const { entries, total } = await files.list(`in/${name}`);
      assert.deepEqual(
        [entries[0]?.path, entries[0]?.sizeBytes, total],
        [`/in/${name}/${name}`, 7, 1],
      );
      await files.rename(`in/${name}/${name}`, `moved ${name}`);
      await files.copy(`in/${name}`, `copy ${name}`);
      assert.ok((await files.stat(`copy ${name}`)).isDirectory);
      for (const path of [`moved ${name}`, `copy ${name}`, 'in']) await files.remove(path);
      assert.deepEqual((await files.list('/')).entries, []);
    });

  it('changes the permissions of the groups that are given', async () => {
    await files.write('f', bytes('x'));
    const mode = () => (statSync(join(root, 'f')).mode & 0o777).toString(8);
    await files.chmod('f', 'rwx');
    assert.equal(mode(), '740');
    await files.chmod('f', 'r-----');
    assert.equal(mode(), '400');
    await files.chmod('f', 'rw-rw-r-x');
    assert.equal(mode(), '665');
    for (const wrong of ['1755', '78', 'rwxr', 'rwsr-xr-x', '', 'wrx'])
      await assert.rejects(files.chmod('f', wrong), { code: 'BAD_REQUEST' });
    await files.remove('f');
  });

  it('lists in pages, by name', async () => {
    for (const name of ['c', 'a', 'b']) await files.write(`page/${name}`, bytes(''));
    const { entries, total } = await files.list('page', { offset: 1, num: 1 });
    assert.deepEqual([entries.map(({ path }) => path), total], [['/page/b'], 3]);
    assert.deepEqual((await files.list('page', { offset: 9 })).entries, []);
    await files.remove('page');
  });

  it('says what is missing, and what is no file or no directory', async () => {
    await files.write('file', bytes(''));
    await files.mkdir('dir/sub');
    await files.mkdir('dir/sub');
    await assert.rejects(files.stat('nope'), { code: 'NOT_FOUND' });
    await assert.rejects(files.list('nope'), { code: 'NOT_FOUND' });
    await assert.rejects(files.rename('nope', 'x'), { code: 'NOT_FOUND' });
    await assert.rejects(files.list('file'), { code: 'BAD_REQUEST' });
    await assert.rejects(files.mkdir('file'), { code: 'BAD_REQUEST' });
    await assert.rejects(files.write('dir', bytes('')), { code: 'BAD_REQUEST' });
    await assert.rejects(files.write('dir/', bytes('')), { code: 'BAD_REQUEST' });
    await files.remove('nope');
    for (const path of ['file', 'dir']) await files.remove(path);
  });

  it('refuses to leave the root, and to remove it', async () => {
    const secret = join(root, '..', 'secret');
    writeFileSync(secret, 'x', { mode: 0o666 });
    const refuses = (work: Promise<unknown>) => assert.rejects(work, { code: 'BAD_REQUEST' });
    await refuses(files.stat('../secret'));
    await refuses(files.write('a/../../secret', bytes('')));
    await refuses(files.remove('../secret'));
    await refuses(files.rename('../secret', 'x'));
    await refuses(files.copy('/', '../secret'));
    await refuses(files.remove('/'));
    await refuses(files.remove('a/..'));
    await refuses(files.rename('/', 'x'));
    await refuses(files.stat('a\nb'));
    assert.ok(existsSync(secret) && existsSync(root));
  });

  it('removes trees whose owner took himself the right to', async () => {
    await files.mkdir('locked/inner');
    await files.write('locked/inner/f', bytes('x'));
    await files.chmod('locked/inner', 'r--');
    await files.remove('locked');
    assert.ok(!existsSync(join(root, 'locked')));
  });

  it('finds the home directory of the user', async () => {
    const home = new TsiFileSpace({ root: '$HOME', identity, tsi });
    const expected = (await tsi().execute(identity, 'printf %s "$HOME"')).trim();
    assert.equal(await home.mountPoint(), `${expected.replace(/\/$/, '')}/`);
    const below = new TsiFileSpace({ root: '$HOME/x', identity, tsi });
    assert.equal(await below.mountPoint(), `${expected.replace(/\/$/, '')}/x/`);
  });

  it('finds directories by variables, and none by one that is not set', async () => {
    const named = new TsiFileSpace({ root: '$HOME/a ${USER} $(id)', identity, tsi });
    assert.match(await named.mountPoint(), new RegExp(`/a ${identity.login} \\$\\(id\\)/$`));
    for (const root of ['$NOT_SET_ANYWHERE/x', '$NOT_SET_ANYWHERE', '/', '//'])
      await assert.rejects(new TsiFileSpace({ root, identity, tsi }).mountPoint(), {
        code: 'TSI_FAILED',
      });
  });

  it('changes permissions in octal, and groups of the account', async () => {
    await files.write('f', bytes('x'));
    await files.chmod('f', '0604');
    assert.equal(statSync(join(root, 'f')).mode & 0o777, 0o604);
    const { group } = await files.stat('f');
    await files.chgrp('f', group);
    await assert.rejects(files.chgrp('f', 'no-such-group-here'), { code: 'TSI_FAILED' });
    await assert.rejects(files.chgrp('f', '-R root'), { code: 'BAD_REQUEST' });
    await assert.rejects(files.chgrp('nope', group), { code: 'NOT_FOUND' });
    await files.remove('f');
  });

  it('follows links, leaves dangling ones out and removes the link, not what it leads to', async () => {
    await files.write('real/file', bytes('x'));
    symlinkSync('real', join(root, 'link'));
    symlinkSync('nowhere', join(root, 'dangling'));
    assert.deepEqual(
      (await files.list('/')).entries.map(({ path, isDirectory }) => [path, isDirectory]),
      [
        ['/link', true],
        ['/real', true],
      ],
    );
    assert.equal(await text(files.read('link/file')), 'x');
    for (const path of ['link', 'dangling']) await files.remove(path);
    assert.ok(existsSync(join(root, 'real/file')));
    await files.remove('real');
  });

  it('hands access control lists to the TSI, where it has them', async () => {
    await files.write('f', bytes('x'));
    const calls: unknown[] = [];
    const entry = { type: 'user', subject: 'bob', permissions: 'r--', isDefault: false } as const;
    // a fake: no file system here is sure to keep lists
    const withAcl = (supported: boolean) => (): Tsi =>
      Object.assign(Object.create(tsi()) as Tsi, {
        list: (...call: Parameters<Tsi['list']>) => tsi().list(...call),
        aclSupport: () => Promise.resolve(supported),
        getAcl: () => Promise.resolve([entry]),
        setAcl: (_: unknown, path: string, change: unknown) => {
          calls.push([path, change]);
          return Promise.resolve();
        },
      });
    const space = new TsiFileSpace({ root, identity, tsi: withAcl(true) });
    assert.deepEqual(await space.acl('f'), [entry]);
    await space.setAcl('f', [entry]);
    assert.deepEqual(calls, [
      [`${root}/f`, { operation: 'RM_ALL' }],
      [`${root}/f`, { operation: 'MODIFY', entry }],
    ]);
    const without = new TsiFileSpace({ root, identity, tsi: withAcl(false) });
    assert.equal(await without.acl('f'), undefined);
    await assert.rejects(without.setAcl('f', []), { code: 'NOT_IMPLEMENTED' });
    await files.remove('f');
  });

  it('looks at all names and metadata at once', async () => {
    await files.write('a b/x.txt', bytes('x'));
    await files.write('a b/.x.txt.metadata', bytes('{\n "a": "ü",\n "b": "1"\n}'));
    await files.write('.y.metadata', bytes('{}'));
    await files.write('.big.metadata', bytes('x'.repeat(70_000)));
    const { files: found, metadata, complete } = await files.scan();
    assert.deepEqual([found, complete], [['/a b/x.txt'], true]);
    assert.deepEqual([...metadata.keys()].sort(), ['/a b/x.txt', '/y']);
    assert.deepEqual(JSON.parse(metadata.get('/a b/x.txt')!), { a: 'ü', b: '1' });
    for (const path of ['a b', '.y.metadata', '.big.metadata']) await files.remove(path);
  });

  it('refuses to copy or move a directory into itself', async () => {
    await files.mkdir('d/e');
    await assert.rejects(files.copy('d', 'd/e/f'), { code: 'BAD_REQUEST' });
    await assert.rejects(files.rename('d', 'd/e'), { code: 'BAD_REQUEST' });
    await files.remove('d');
  });

  it('knows its space, root and umask', async () => {
    mkdirSync(root, { recursive: true });
    assert.ok((await files.space()).freeBytes > 0);
    assert.equal(await files.mountPoint(), `${root}/`);
    assert.equal(files.umask, '27');
  });
});
