import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { pathToFileURL } from 'node:url';
import { inProject } from '../program.js';

const compiler = pathToFileURL(inProject('cli/compile.mjs')).href;
const { compile, compileTests } = (await import(compiler)) as {
  compile: (project: string) => Promise<boolean>;
  compileTests: (project: string) => Promise<string>;
};

describe('the compiled server', () => {
  let project = '';
  before(() => {
    project = mkdtempSync(join(tmpdir(), 'vsite-compile-'));
    for (const folder of 'cli gateway imagerepo kernel targetsystem tsi xnjs test'.split(' '))
      mkdirSync(join(project, folder));
    writeFileSync(join(project, 'package.json'), '{ "type": "module" }');
    writeFileSync(join(project, 'kernel', 'gone.ts'), 'export const x = 1;\n');
    write('first');
  });
  after(() => rmSync(project, { recursive: true, force: true }));

  const write = (message: string): void =>
    writeFileSync(
      join(project, 'kernel', 'fails.ts'),
      `type Text = string;\n\nconst message: Text = '${message}';\n\nthrow new Error(message);\n`,
    );
  /** What it says as it fails. */
  function run(): string {
    const main = pathToFileURL(join(project, 'dist', 'kernel', 'fails.js')).href;
    const script = `process.setSourceMapsEnabled(true); await import('${main}')`;
    return spawnSync(process.execPath, ['--input-type=module', '-e', script]).stderr.toString();
  }

  it('is made once, also if two want it, and its errors point to the sources', async () => {
    const made = await Promise.all([compile(project), compile(project)]);
    assert.deepEqual(made.sort(), [false, true]);
    assert.equal(await compile(project), false);
    assert.match(run(), /first[^]*kernel\/fails\.ts:5/);
  });

  it('is made again when a source has changed, or is gone, whatever one that was killed has left', async () => {
    mkdirSync(join(project, 'dist-new-killed', 'kernel'), { recursive: true });
    write('second');
    rmSync(join(project, 'kernel', 'gone.ts'));
    assert.equal(await compile(project), true);
    assert.match(run(), /second/);
    assert.equal(existsSync(join(project, 'dist', 'kernel', 'gone.js')), false);
    const left = readdirSync(project).filter((name) => name.startsWith('dist'));
    assert.deepEqual(left, ['dist']);
  });

  it('leaves the tests where they are when it is made again beneath them', async () => {
    writeFileSync(join(project, 'test', 'a.test.ts'), 'const passed: boolean = true;\n');
    const test = join(await compileTests(project), 'a.test.js');
    const made = readFileSync(test, 'utf8');
    write('third');
    assert.equal(await compile(project), true);
    assert.equal(readFileSync(test, 'utf8'), made);
    write('second');
    await compile(project);
  });

  it('stays as it was when a source cannot be compiled', async () => {
    writeFileSync(join(project, 'kernel', 'wrong.ts'), 'const = 1;\n');
    await assert.rejects(compile(project), /wrong\.ts/);
    assert.match(run(), /second/);
  });
});
