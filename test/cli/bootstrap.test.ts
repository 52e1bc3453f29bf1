import assert from 'node:assert/strict';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { pathToFileURL } from 'node:url';
import { inProject } from '../program.js';
import type * as Bootstrap from '../../cli/bootstrap.mjs';
import type * as TestEntries from '../../cli/test-entries.mjs';

// not compiled, as it runs before there is a compiler
const { BootstrapError, ensurePackages, missingPackages, modulesMatch, testFiles } = (await import(
  pathToFileURL(inProject('cli/bootstrap.mjs')).href
)) as typeof Bootstrap;
const { groupTests } = (await import(
  pathToFileURL(inProject('cli/test-entries.mjs')).href
)) as typeof TestEntries;

/** A machine with some packages, that remembers what was run on it. */
function machine(installed: readonly string[], { sudo = false, lists = true } = {}) {
  const commands: string[] = [];
  let [packages, known] = [[...installed], lists];
  const run: Bootstrap.Run = (command, args) => {
    const line = [command, ...args].join(' ');
    commands.push(line);
    if (command === 'dpkg-query')
      return done(0, packages.map((name) => `${name} install ok installed\n`).join(''));
    if (command === 'sudo' && !sudo) return done(1, 'a password is required');
    if (line.endsWith('apt-get update')) known = true;
    if (!line.includes('apt-get install')) return done(0, '');
    if (!known) return done(100, 'E: Unable to locate package');
    packages = [...packages, ...args.slice(args.indexOf('--no-install-recommends') + 1)];
    return done(0, '');
  };
  return { run, commands };
}
const done = (code: number, output: string) => Promise.resolve({ code, output });

describe('packages of the machine', () => {
  it('names those that are not installed', async () => {
    const { run } = machine(['tini', 'lz4']);
    assert.deepEqual(await missingPackages(['tini', 'qemu-utils', 'lz4'], run), ['qemu-utils']);
  });

  it('takes a removed package whose configuration is left for a missing one', async () => {
    const run: Bootstrap.Run = () => done(0, 'tini deinstall ok config-files\n');
    assert.deepEqual(await missingPackages(['tini'], run), ['tini']);
  });

  it('says what to install where there is no dpkg', async () => {
    const run: Bootstrap.Run = () => done(127, 'ENOENT');
    await assert.rejects(missingPackages(['tini'], run), /tini/);
  });

  it('prints the one line to run without root and sudo, and installs nothing', async () => {
    const { run, commands } = machine(['tini']);
    await assert.rejects(ensurePackages(['tini', 'lz4'], { run, uid: 1000 }), (error: Error) => {
      assert(error instanceof BootstrapError);
      assert.match(error.message, /^ {2}sudo apt-get update && sudo apt-get install .* lz4$/m);
      return true;
    });
    assert(!commands.some((line) => line.includes('apt-get')));
  });

  it('installs by sudo where it asks for no password', async () => {
    const { run, commands } = machine([], { sudo: true });
    await ensurePackages(['lz4'], { run, uid: 1000 });
    assert.deepEqual(await missingPackages(['lz4'], run), []);
    assert.match(commands.find((line) => line.includes('apt-get')) ?? '', /^sudo -n env /);
  });

  it('fetches package lists only when they are needed', async () => {
    const updates = async (lists: boolean) => {
      const { run, commands } = machine([], { lists });
      await ensurePackages(['lz4'], { run, uid: 0 });
      return commands.filter((line) => line.endsWith('update')).length;
    };
    assert.deepEqual([await updates(true), await updates(false)], [0, 1]);
  });

  it('runs nothing but the question when all are there', async () => {
    const { run, commands } = machine(['lz4']);
    await ensurePackages(['lz4'], { run, uid: 1000 });
    assert.equal(commands.length, 1);
  });
});

describe('npm packages', () => {
  it('match when each one of the lock file is installed in its version', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'vsite-bootstrap-'));
    try {
      await mkdir(join(folder, 'node_modules'));
      const write = (file: string, packages: unknown) =>
        writeFile(join(folder, file), JSON.stringify({ packages }));
      const a = { version: '1.0.0', integrity: 'sha512-a' };
      await write('package-lock.json', { '': {}, a, b: { ...a, optional: true } });
      assert.equal(modulesMatch(folder), false);
      await write('node_modules/.package-lock.json', { a });
      assert.equal(modulesMatch(folder), true);
      await write('node_modules/.package-lock.json', { a: { ...a, version: '0.9.0' } });
      assert.equal(modulesMatch(folder), false);
    } finally {
      await rm(folder, { recursive: true });
    }
  });
});

describe('the choice of tests', () => {
  it('takes all files, or those whose path has one of the words in it', () => {
    const all = testFiles([]);
    const one = testFiles(['cli/bootstrap']);
    assert(all.length > 1);
    assert.deepEqual(one, [inProject('test/cli/bootstrap.test.ts')]);
    assert.deepEqual(testFiles(['no such test']), []);
  });
  it('runs each file once: small ones in a process with others of their folder, the longest first', () => {
    const names = testFiles([]).map((path) => path.slice(inProject('test').length + 1));
    const groups = groupTests(names);
    assert.deepEqual(groups.flat().sort(), names.sort());
    const [first = []] = groups;
    assert.deepEqual(first, ['tsi/slurm.test.ts']);
    const together = groups.find((group) => group.includes('xnjs/idb/merge.test.ts')) ?? [];
    assert.ok(together.every((name) => name.startsWith('xnjs/idb/')));
    assert.ok(together.length > 1);
    assert.deepEqual(groupTests(['kernel/bag.test.ts']), [['kernel/bag.test.ts']]);
  });
});
