import assert from 'node:assert/strict';
import { mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import type { Clock } from '#kernel/clock.js';
import { silentLog } from '#kernel/log.js';
import { IdbConfig } from '#xnjs/idb/config.js';
import { IdbSource } from '#xnjs/idb/idb-source.js';

/** A clock whose sleepers wake when the test says so. */
class HandClock implements Clock {
  #wake: (() => void) | undefined;
  #asleep: (() => void) | undefined;

  now(): number {
    return 0;
  }

  sleep(_ms: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      signal?.addEventListener('abort', () => reject(signal.reason as Error), { once: true });
      this.#wake = resolve;
      this.#asleep?.();
    });
  }

  /** Resolves when what was woken sleeps again. */
  async tick(): Promise<void> {
    const asleep = new Promise<void>((resolve) => (this.#asleep = resolve));
    this.#wake?.();
    await asleep;
  }
}

const file = (...names: string[]): string =>
  JSON.stringify({
    Applications: names.map((Name) => ({ Name, Version: '1', Executable: 'a' })),
    ScriptHeader: `#!/bin/bash -${names[0]}`,
  });

describe('the IDB of a running server', () => {
  let directory = '';
  let path = '';
  let clock = new HandClock();
  const open = () => IdbSource.open({ config: IdbConfig.parse({ path }), clock, log: silentLog });
  const names = (source: IdbSource): string[] =>
    source
      .of({ applications: [], limits: { cpus: 1, memoryBytes: 1e9 } })
      .applications.map(({ Name }) => Name);

  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), 'vsite-idb-'));
    path = join(directory, 'idb.json');
    clock = new HandClock();
  });
  afterEach(() => rmSync(directory, { recursive: true, force: true }));

  it('is read again when its file changes', async () => {
    writeFileSync(path, file('A'));
    await using source = await open();
    assert.deepEqual(names(source), ['A']);
    writeFileSync(path, file('B', 'C'));
    await clock.tick();
    assert.deepEqual(names(source), ['B', 'C']);
    assert.equal(source.scriptHeader.submit, '#!/bin/bash -B');
    writeFileSync(`${path}.new`, file('D'));
    renameSync(`${path}.new`, path);
    await clock.tick();
    assert.deepEqual(names(source), ['D']);
  });

  it('stays as it was, as a whole, while a new version is wrong, and says why', async () => {
    writeFileSync(path, file('A'));
    await using source = await open();
    assert.equal(source.problem, undefined);
    const wrong = { Name: 'C', Version: 1, Executable: 'c' };
    writeFileSync(path, JSON.stringify({ ScriptHeader: '#!/bin/bash -B', Applications: [wrong] }));
    await clock.tick();
    assert.deepEqual([names(source), source.scriptHeader.submit], [['A'], '#!/bin/bash -A']);
    assert.match(String(source.problem), /idb\.json: Applications\.0\.Version: /);
    rmSync(path);
    await clock.tick();
    assert.deepEqual(names(source), ['A']);
    assert.match(String(source.problem), /idb\.json: cannot be read/);
    writeFileSync(path, file('E'));
    await clock.tick();
    assert.deepEqual([names(source), source.problem], [['E'], undefined]);
  });

  it('sees files come, change and go in a directory', async () => {
    path = directory;
    writeFileSync(join(directory, 'a.json'), file('A'));
    await using source = await open();
    const b = join(directory, 'b.json');
    writeFileSync(b, JSON.stringify({ Name: 'B', Version: '1', Executable: 'b' }));
    await clock.tick();
    assert.deepEqual(names(source), ['A', 'B']);
    rmSync(b);
    await clock.tick();
    assert.deepEqual(names(source), ['A']);
  });

  it('that is wrong at the start does not start, and closing twice is fine', async () => {
    writeFileSync(path, '{');
    await assert.rejects(open(), { code: 'IDB_INVALID' });
    writeFileSync(path, '{}');
    const source = await open();
    await source[Symbol.asyncDispose]();
    await source[Symbol.asyncDispose]();
  });
});
