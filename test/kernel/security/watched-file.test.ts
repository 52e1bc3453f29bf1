import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { silentLog } from '#kernel/log.js';
import { watchFile } from '#kernel/security/watched-file.js';

describe('a file that is watched', () => {
  let directory: string;
  before(async () => {
    directory = await mkdtemp(join(tmpdir(), 'watched-'));
  });
  after(() => rm(directory, { recursive: true }));

  it('is read by one reading at a time, so that none puts back what a later one has replaced', async () => {
    const path = join(directory, 'users');
    await writeFile(path, '');
    let [readings, underWay, most] = [0, 0, 0];
    const read = async (): Promise<number> => {
      const number = ++readings;
      most = Math.max(most, ++underWay);
      // Later ones would be done sooner
      for (let turn = 0; turn < 50 / number; turn++) await readFile(path);
      underWay--;
      return number;
    };
    const file = await watchFile(path, read, { log: silentLog, recheckMs: 1e9 });
    await Promise.all([file.reload(), file.reload(), file.reload()]);
    assert.deepEqual([await file.current(), most], [4, 1]);
  });
});
