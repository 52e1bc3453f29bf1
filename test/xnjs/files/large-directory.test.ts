import assert from 'node:assert/strict';
import { chmodSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { Scope } from '#kernel/scope.js';
import type { FileSpace } from '#xnjs/files/file-space.js';
import { HostDirectory } from '#xnjs/files/host-directory.js';
import { HostFileSpace } from '#xnjs/files/host-file-space.js';
import { TsiFileSpace } from '#xnjs/files/tsi-file-space.js';
import type { Tsi } from '#xnjs/tsi/tsi.js';
import { Agent, identity, linkTo, scratch, until } from '../job/rig.js';

const many = 20_000;

describe('a directory with very many files', { timeout: 120_000 }, () => {
  const scope = new Scope();
  let spaces: Record<'a target system' | 'the host', FileSpace>;
  /** What listings cost at the target system. */
  let lists = 0;
  before(async () => {
    const directory = scratch(scope);
    const agent = new Agent(directory);
    scope.defer(() => agent.kill());
    await agent.start();
    const { link, tsi } = linkTo(scope, agent.socket);
    await until('link is up', () => link.state === 'up');
    const counting = (): Tsi => {
      const real = tsi();
      const list: Tsi['list'] = (who, path, mode, options) => {
        if (mode === 'N') lists++;
        return real.list(who, path, mode, options);
      };
      return new Proxy(real, {
        get: (target, name) => {
          if (name === 'list') return list;
          const member: unknown = Reflect.get(target, name);
          return typeof member === 'function' ? (member.bind(target) as unknown) : member;
        },
      });
    };
    const root = join(directory, 'jobs', 'base', 'user');
    mkdirSync(join(root, 'big'), { recursive: true });
    for (const path of [root, join(root, 'big'), join(root, '..')]) chmodSync(path, 0o777);
    const names = Array.from(
      { length: many },
      (_, at) => `file ${String(at).padStart(6, '0')}.txt`,
    );
    for (const name of names) writeFileSync(join(root, 'big', name), 'x');
    mkdirSync(join(root, 'big', 'zz dir'));
    for (const name of ['.hidden.metadata', 'zz\nbreak', 'zz "$(id)" \'ü'])
      writeFileSync(join(root, 'big', name), '');
    writeFileSync(Buffer.from(`${root}/big/zz \xff`, 'latin1'), '');
    symlinkSync('nowhere', join(root, 'big', 'zz dangling'));
    spaces = {
      'a target system': new TsiFileSpace({ root, identity, tsi: counting }),
      'the host': new HostFileSpace({
        host: new HostDirectory(join(directory, 'jobs', 'base')),
        directory: 'user',
      }),
    };
  });
  after(() => scope.close());

  for (const where of ['a target system', 'the host'] as const)
    it(`is shown in pages, by name, on ${where}`, async () => {
      const { entries, total } = await spaces[where].list('big', { offset: 10_000, num: 3 });
      assert.deepEqual(
        entries.map(({ path, isDirectory, sizeBytes, permissions }) => [
          path,
          isDirectory,
          sizeBytes,
          permissions,
        ]),
        [10_000, 10_001, 10_002].map((at) => [`/big/file 0${at}.txt`, false, 1, 'rw-r--r--']),
      );
      assert.ok(entries[0]!.modifiedMs > Date.now() - 3_600_000);
      assert.ok(total >= many + 2 && total <= many + 5, String(total));
      const rest = await spaces[where].list('big', { offset: many, num: 10 });
      assert.deepEqual(
        rest.entries.map(({ path, isDirectory }) => [path, isDirectory]),
        [
          ['/big/zz "$(id)" \'ü', false],
          ['/big/zz dir', true],
        ],
      );
      assert.deepEqual((await spaces[where].list('big', { offset: 50_000 })).entries, []);
      assert.equal((await spaces[where].list('big')).entries.length, 10_000);
    });

  it('is never fetched as a whole', () => assert.equal(lists, 0));
});
