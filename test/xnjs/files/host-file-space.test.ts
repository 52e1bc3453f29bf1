import assert from 'node:assert/strict';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { execFileSync } from 'node:child_process';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { text } from 'node:stream/consumers';
import { after, before, describe, it } from 'node:test';
import { systemClock } from '#kernel/clock.js';
import { HostDirectory } from '#xnjs/files/host-directory.js';
import { HostFileSpace } from '#xnjs/files/host-file-space.js';
import { Quota } from '#xnjs/files/quota.js';

const bytes = (content: string): Readable => Readable.from([Buffer.from(content)]);

describe('files in a directory of the host', { timeout: 60_000 }, () => {
  let top: string;
  let host: HostDirectory;
  let files: HostFileSpace;
  let root: string;
  before(async () => {
    top = mkdtempSync(join(tmpdir(), 'vsite-host-'));
    host = new HostDirectory(join(top, 'base'));
    await host.prepare();
    files = new HostFileSpace({ host, directory: 'alice', umask: '027' });
    root = join(top, 'base', 'alice');
  });
  after(() => rmSync(top, { recursive: true, force: true }));
  const refuses = (work: Promise<unknown>, code = 'BAD_REQUEST') => assert.rejects(work, { code });

  const names = [
    'plain',
    "it's",
    '$HOME',
    '$(id)',
    '-rf',
    'a b  c',
    'ünï 😀',
    '%2e%2e',
    '"*?',
    '...',
  ];
  it('keeps what came of an append that broke', async () => {
    await files.write('log', bytes('one'));
    const broken = Readable.from(
      (async function* () {
        yield Buffer.from(' two');
        await Promise.resolve();
        throw new Error('the client has left');
      })(),
    );
    await assert.rejects(files.write('log', broken, { append: true }), /left/);
    assert.equal(await text(files.read('log')), 'one two');
    await files.remove('log');
  });

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

  it('changes permissions, by letters or octal', async () => {
    await files.write('f', bytes('x'));
    const mode = () => (statSync(join(root, 'f')).mode & 0o7777).toString(8);
    for (const [change, result] of [
      ['rwx', '740'],
      ['r-----', '400'],
      ['rw-rw-r-x', '665'],
      ['0750', '750'],
      ['604', '604'],
    ] as const) {
      await files.chmod('f', change);
      assert.equal(mode(), result);
    }
    assert.equal((await files.stat('f')).permissions, 'rw----r--');
    for (const wrong of ['4755', '78', 'rwxr', 'rwsr-xr-x', '', 'wrx'])
      await refuses(files.chmod('f', wrong));
    await files.remove('f');
  });

  it('copies trees, and no directory into itself', async () => {
    await files.write('tree/a/b', bytes('b'));
    await files.mkdir('tree/empty');
    await files.copy('tree', 'twin');
    assert.equal(readFileSync(join(root, 'twin/a/b'), 'utf8'), 'b');
    assert.ok(existsSync(join(root, 'twin/empty')));
    await refuses(files.copy('tree', 'tree/a/c'));
    await refuses(files.rename('tree', 'tree/a'));
    await refuses(files.rename('twin', 'tree'));
    for (const path of ['tree', 'twin']) await files.remove(path);
  });

  it('says what is missing, and what is no file or no directory', async () => {
    await files.write('file', bytes(''));
    await files.mkdir('dir/sub');
    await files.mkdir('dir/sub');
    await refuses(files.stat('nope'), 'NOT_FOUND');
    await refuses(files.stat('nope/deeper'), 'NOT_FOUND');
    await refuses(files.list('nope'), 'NOT_FOUND');
    await refuses(files.rename('nope', 'x'), 'NOT_FOUND');
    await refuses(files.copy('nope', 'x'), 'NOT_FOUND');
    await refuses(text(files.read('nope')), 'NOT_FOUND');
    await refuses(text(files.read('dir')));
    await refuses(files.list('file'));
    await refuses(files.stat('file/x'));
    await refuses(files.mkdir('file'));
    await refuses(files.mkdir('file/x'));
    await refuses(files.write('dir', bytes('')));
    await refuses(files.write('dir/', bytes('')));
    await refuses(files.write('x'.repeat(300), bytes('')));
    await files.remove('nope');
    for (const path of ['file', 'dir']) await files.remove(path);
  });

  it('refuses to leave the root, and to remove it', async () => {
    mkdirSync(join(top, 'base', 'bob'), { recursive: true });
    writeFileSync(join(top, 'base', 'bob', 'secret'), 'x');
    await refuses(files.stat('../bob/secret'));
    await refuses(files.write('a/../../bob/secret', bytes('')));
    await refuses(files.remove('../bob'));
    await refuses(files.rename('../bob/secret', 'x'));
    await refuses(files.copy('/', '../bob/x'));
    for (const path of ['/', '', 'a/..', '.']) await refuses(files.remove(path));
    await refuses(files.rename('/', 'x'));
    await refuses(files.stat('a\nb'));
    assert.equal(readFileSync(join(top, 'base', 'bob', 'secret'), 'utf8'), 'x');
  });

  it('follows links that stay inside and no others', async () => {
    await files.write('real/file', bytes('inside'));
    symlinkSync('real', join(root, 'link'));
    symlinkSync('../link/file', join(root, 'real', 'roundabout'));
    symlinkSync('loop', join(root, 'loop'));
    symlinkSync('../bob', join(root, 'out'));
    symlinkSync(join(top, 'base', 'bob'), join(root, 'absolute'));
    symlinkSync('/etc/passwd', join(root, 'real', 'passwd'));
    assert.equal(await text(files.read('link/roundabout')), 'inside');
    for (const path of ['out/secret', 'absolute/secret', 'real/passwd', 'loop', 'out']) {
      await refuses(files.stat(path));
      await refuses(text(files.read(path)));
      await refuses(files.write(path, bytes('overwritten')));
      await refuses(files.write(path, bytes('overwritten'), { append: true }));
      await refuses(files.chmod(path, 'rwxrwxrwx'));
    }
    await refuses(files.mkdir('out/made'));
    await refuses(files.rename('real/file', 'out/stolen'));
    await refuses(files.copy('real/file', 'out/stolen'));
    assert.deepEqual(
      (await files.list('/')).entries.map(({ path }) => path),
      ['/link', '/real'],
    );
    await files.remove('out');
    await files.remove('real');
    assert.deepEqual(readdirSync(join(top, 'base', 'bob')), ['secret']);
    for (const path of ['absolute', 'link', 'loop']) await files.remove(path);
  });

  it('is not fooled by directories that become links meanwhile', async () => {
    await files.write('a/secret', bytes('mine'));
    const [a, parked] = [join(root, 'a'), join(root, 'parked')];
    const end = Date.now() + 1_500;
    let swaps = 0;
    /** An upload may make the directory anew at any time. */
    const put = (make: () => void): void => {
      for (;;)
        try {
          rmSync(a, { recursive: true, force: true });
          make();
          return;
        } catch (error) {
          assert.match((error as NodeJS.ErrnoException).code!, /EEXIST|ENOTEMPTY/);
        }
    };
    const swapper = (async () => {
      while (Date.now() < end) {
        renameSync(a, parked);
        put(() => symlinkSync(join(top, 'base', 'bob'), a));
        await new Promise((resolve) => setTimeout(resolve, Math.random() * 4));
        put(() => renameSync(parked, a));
        swaps++;
        await new Promise((resolve) => setTimeout(resolve, Math.random() * 4));
      }
    })();
    let read = 0;
    while (Date.now() < end) {
      const found = await text(files.read('a/secret')).catch(() => 'refused');
      if (found === 'mine') read++;
      else assert.equal(found, 'refused');
      await files.write('a/secret', bytes('mine')).catch(() => undefined);
      await files.write('a/new', bytes('mine')).catch(() => undefined);
      await files.remove('a/new').catch(() => undefined);
    }
    await swapper;
    assert.ok(swaps > 20 && read > 5, `${swaps} swaps, ${read} reads`);
    assert.deepEqual(readdirSync(join(top, 'base', 'bob')), ['secret']);
    assert.equal(readFileSync(join(top, 'base', 'bob', 'secret'), 'utf8'), 'x');
    await files.remove('a');
  });

  it('reads no pipe, and waits for none', async () => {
    await files.mkdir('/');
    execFileSync('mkfifo', [join(root, 'pipe')]);
    await refuses(text(files.read('pipe')));
    await files.remove('pipe');
  });

  it('removes deep trees, and those whose owner took himself the right to', async () => {
    let deep = join(root, 'deep');
    mkdirSync(deep);
    for (let level = 0; level < 15; level++) {
      deep = join(deep, 'x'.repeat(200));
      mkdirSync(deep);
    }
    writeFileSync(join(deep, 'file'), '');
    chmodSync(join(root, 'deep'), 0o000);
    await files.remove('deep');
    assert.deepEqual(readdirSync(root), []);
    assert.deepEqual(readdirSync(join(top, 'base', '.vsite-work')), []);
  });

  it('leaves names out that no path can say', async () => {
    await files.mkdir('odd');
    for (const name of ['line\nbreak', 'back\\slash']) writeFileSync(join(root, 'odd', name), '');
    writeFileSync(Buffer.concat([Buffer.from(join(root, 'odd/')), Buffer.from([0xff, 0xfe])]), '');
    writeFileSync(join(root, 'odd', 'ok'), '');
    const { entries, total } = await files.list('odd');
    assert.deepEqual([entries.map(({ path }) => path), total], [['/odd/ok'], 1]);
    await files.remove('odd');
    assert.ok(!existsSync(join(root, 'odd')));
  });

  it('keeps the old file when an upload breaks off, and cleans up after a crash', async () => {
    await files.write('kept', bytes('old'));
    const broken = Readable.from(
      (function* () {
        yield Buffer.from('half');
        throw new Error('the client left');
      })(),
    );
    await assert.rejects(files.write('kept', broken), /the client left/);
    assert.equal(await text(files.read('kept')), 'old');
    const work = join(top, 'base', '.vsite-work');
    assert.deepEqual(readdirSync(work), []);
    mkdirSync(join(work, 'left/behind'), { recursive: true });
    writeFileSync(join(work, 'draft'), 'x');
    await new HostDirectory(host.base).prepare();
    assert.deepEqual(readdirSync(work), []);
    await files.remove('kept');
  });

  it('keeps a quota', async () => {
    const measured = new HostFileSpace({ host, directory: 'carol' });
    await measured.write('before', bytes('x'.repeat(40)));
    const quota = new Quota(100, () => measured.measure(), systemClock);
    const limited = new HostFileSpace({ host, directory: 'carol', quota });
    assert.equal((await limited.space()).userBytes, 60);
    await refuses(limited.write('big', bytes('x'.repeat(61))), 'STORAGE_FULL');
    assert.ok(!existsSync(join(host.base, 'carol', 'big')));
    await limited.write('fits', bytes('x'.repeat(60)));
    await refuses(limited.write('fits', bytes('y'), { append: true }), 'STORAGE_FULL');
    await refuses(limited.copy('before', 'again'), 'STORAGE_FULL');
    await limited.remove('before');
    await limited.write('fits', bytes('x'.repeat(10)));
    assert.equal((await limited.space()).userBytes, 90);
    const both = await Promise.allSettled([
      limited.write('one', bytes('1'.repeat(80))),
      limited.write('two', bytes('2'.repeat(80))),
    ]);
    assert.deepEqual(both.map(({ status }) => status).sort(), ['fulfilled', 'rejected']);
  });
});
