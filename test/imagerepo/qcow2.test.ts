import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { promisify } from 'node:util';
import { checkQcow2, virtualBytesOf } from '#imagerepo/store/qcow2.js';

const run = promisify(execFile);
const noQemuImg = await run('qemu-img', ['--version']).then(
  () => false as const,
  () => 'qemu-img is not installed',
);

describe('disks that qemu-img makes', { skip: noQemuImg }, () => {
  let directory: string;
  before(async () => {
    directory = await mkdtemp(join(tmpdir(), 'qcow2-'));
    await writeFile(join(directory, 'secret'), 'x'.repeat(1024));
  });
  after(() => rm(directory, { recursive: true }));

  const cases: readonly (readonly [string, readonly string[], string | undefined])[] = [
    ['a plain one', ['disk', '1G'], undefined],
    ['one of the old version', ['-o', 'compat=0.10', 'disk', '1G'], undefined],
    ['one compressed by zstd', ['-o', 'compression_type=zstd', 'disk', '1G'], undefined],
    [
      'one with extended entries',
      ['-o', 'extended_l2=on,cluster_size=128k', 'disk', '1G'],
      undefined,
    ],
    ['one with large clusters', ['-o', 'cluster_size=2M', 'disk', '1G'], undefined],
    ['an overlay', ['-b', 'secret', '-F', 'raw', 'disk', '1G'], 'has a backing file'],
    [
      'one with its data elsewhere',
      ['-o', 'data_file=data', 'disk', '1M'],
      'has an external data file',
    ],
    [
      'one that is too large',
      ['disk', '3G'],
      'has 3221225472 bytes when unpacked, allowed are 1 to 2147483648',
    ],
  ];
  for (const [what, parameters, fault] of cases)
    it(`${what}: ${fault ?? 'is good'}`, async () => {
      await run('qemu-img', ['create', '-f', 'qcow2', ...parameters], { cwd: directory });
      const bytes = await readFile(join(directory, 'disk'));
      const content = {
        sizeBytes: bytes.length,
        read: (offset: number, length: number) =>
          Promise.resolve(bytes.subarray(offset, offset + length)),
      };
      assert.equal(await checkQcow2(content, 2 ** 31), fault);
      if (fault === undefined) assert.equal(await virtualBytesOf(content), 2 ** 30);
      await rm(join(directory, 'disk'));
    });
});
