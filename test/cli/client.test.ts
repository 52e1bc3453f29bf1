import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { drawBar, drawStart, formatBytes } from '#cli/client/progress.js';
import { filePath } from '#cli/client/files.js';
import { parseRemotePath, requireRemotePath } from '#cli/client/remote-path.js';
import { createHttpClient } from '#kernel/http/client.js';
import { createTypedClient } from '#kernel/http/typed-client.js';
import type { CoreOperation } from '#targetsystem/rest/operations.js';

describe('paths of the command line', () => {
  const cases = [
    ['job/1f-2:out.txt', { storageId: '1f-2-uspace', path: '/out.txt' }],
    ['site/ab:data/x y', { storageId: 'ab-HOME', path: '/data/x y' }],
    ['WORK:/a:b', { storageId: 'WORK', path: '/a:b' }],
    ['WORK:', { storageId: 'WORK', path: '/' }],
    ['./a:b', undefined],
    ['/tmp/a:b', undefined],
    ['plain', undefined],
  ] as const;
  for (const [text, expected] of cases)
    it(`${text} is ${expected ? 'in a storage' : 'on this machine'}`, () => {
      assert.deepEqual(parseRemotePath(text), expected);
    });

  it('names what a path in a storage looks like', () => {
    assert.throws(() => requireRemotePath('plain'), { code: 'BAD_REQUEST', message: /job\/<id>/ });
  });

  it('keeps every character of a name in the address', async () => {
    await using client = createHttpClient({ baseUrl: 'http://localhost' });
    const service = createTypedClient<CoreOperation>(client, '/V/rest/core');
    assert.equal(
      service.address(filePath, { storageId: 'WORK', path: '/a b/50%?#ü' }),
      '/V/rest/core/storages/WORK/files/a%20b/50%25%3F%23%C3%BC',
    );
  });
});

describe('progress', () => {
  it('says sizes as people do', () => {
    assert.deepEqual([0, 999, 1_000, 1_450_000, 2e12].map(formatBytes), [
      '0 B',
      '999 B',
      '1.0 kB',
      '1.4 MB',
      '2.0 TB',
    ]);
  });

  it('fills a bar from empty to full, and takes nothing for all', () => {
    assert.match(drawBar('x', 0, 10, 1), /^x {2}─+ {4}0 % {2}0 B\/s$/);
    assert.match(drawBar('x', 5, 10, 2), /^x {2}━{12}─{12} {3}50 %/);
    assert.match(drawBar('x', 0, 0, 1), /━{24} {2}100 %/);
  });

  it('fills a bar of a start by what such starts took, and says only how long it takes where none is known', () => {
    assert.match(drawStart('kernel', 1, 4), /^━{6}─{18} {2}kernel {2}1\.0 s of about 4\.0 s$/);
    assert.match(drawStart('agent', 9, 4), /^━{24} {2}agent {2}9\.0 s of about 4\.0 s$/);
    assert.equal(drawStart('started', 0.44, undefined), 'started  0.4 s');
  });
});
