import assert from 'node:assert/strict';
import {
  chmodSync,
  closeSync,
  mkdirSync,
  openSync,
  readSync,
  statSync,
  ftruncateSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { Scope } from '#kernel/scope.js';
import { startRig } from '../job/rig.js';

/** Beyond what 32 bits hold. The file has a hole: it costs neither space nor time. */
const sizeBytes = 2 ** 32 + 1_000_003;
const mark = 'the end of a large file';

function tail(path: string, length: number): string {
  const file = openSync(path, 'r');
  const bytes = Buffer.alloc(length);
  readSync(file, bytes, 0, length, statSync(path).size - length);
  closeSync(file);
  return bytes.toString();
}

describe('staging files larger than 4 GiB', { timeout: 120_000 }, () => {
  it('brings them in, adds to them and takes them out, whole', async () => {
    await using scope = new Scope();
    const rig = await startRig(scope);
    const outside = join(rig.directory, 'outside');
    mkdirSync(outside);
    chmodSync(outside, 0o1777);
    const source = join(outside, 'source');
    const file = openSync(source, 'w');
    ftruncateSync(file, sizeBytes);
    writeSync(file, mark, sizeBytes - mark.length);
    closeSync(file);
    chmodSync(source, 0o644);
    const id = await rig.submit({
      Executable: 'wc -c < big > size; tail -c 6 big > end',
      Imports: [
        { From: `file://${source}`, To: 'big' },
        { Data: ' more', To: 'big', Mode: 'append' },
      ],
      Exports: [{ From: 'big', To: `file://${outside}/copy` }],
    });
    const job = await rig.finished(id, 100_000);
    assert.equal(job.run.result?.message, '');
    // inline data that is appended may end its line
    const size = statSync(join(rig.directory, 'jobs', id, 'big')).size;
    assert.ok(size >= sizeBytes + 5, String(size));
    assert.equal(Number(rig.output(id, 'size')), size);
    assert.match(rig.output(id, 'end'), /more\n?$/);
    const copy = join(outside, 'copy');
    assert.equal(statSync(copy).size, size);
    assert.match(tail(copy, mark.length + 6), /large file more\n?$/);
  });
});
