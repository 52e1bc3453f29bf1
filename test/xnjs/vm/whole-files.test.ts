import assert from 'node:assert/strict';
import { readdirSync, readFileSync, readlinkSync, symlinkSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { Scope } from '#kernel/scope.js';
import { once, whole } from '#xnjs/vm/whole-files.js';
import { scratch } from '../job/rig.js';

describe('files that are complete or not there', () => {
  it('are not made anew where nobody can tell whether they are there', async () => {
    await using scope = new Scope();
    const path = join(scratch(scope), 'file');
    symlinkSync(path, path);
    const make = (draft: string): Promise<void> => writeFile(draft, 'new');
    for (const way of [whole, once]) await assert.rejects(way(path, make), { code: 'ELOOP' });
    assert.equal(readlinkSync(path), path);
  });

  it('are left as they are where somebody else has made them meanwhile', async () => {
    await using scope = new Scope();
    const directory = join(scratch(scope), 'jobs');
    const path = join(directory, 'file');
    await once(path, async (draft) => {
      await writeFile(path, 'theirs');
      await writeFile(draft, 'ours');
    });
    assert.equal(readFileSync(path, 'utf8'), 'theirs');
    assert.deepEqual(readdirSync(directory), ['file']);
    await once(path, () => assert.fail('it is there'));
  });
});
