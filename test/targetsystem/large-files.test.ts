import assert from 'node:assert/strict';
import { chmodSync, closeSync, ftruncateSync, openSync, readdirSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { after, before, describe, it } from 'node:test';
import { Scope } from '#kernel/scope.js';
import { startRig, type Ask, type Rig } from './storages-rig.js';

/** Beyond what 32 bits hold, signed or not. The files have holes: they cost neither space nor time. */
const sizeBytes = 2 ** 32 + 1_000_003;
const mark = 'the end of a large file';
const owner = 'CN=Alice,O=Grid';

/** A file of zeros, whose last bytes are the mark. */
function makeLarge(path: string): void {
  const file = openSync(path, 'w');
  ftruncateSync(file, sizeBytes);
  writeSync(file, mark, sizeBytes - mark.length);
  closeSync(file);
  chmodSync(path, 0o666);
}

describe('files larger than 4 GiB by REST', { timeout: 60_000 }, () => {
  const scope = new Scope();
  let rig: Rig;
  let alice: Ask;
  let site: string;
  before(async () => {
    rig = await startRig(scope, {
      config: (directory) => ({
        shared: {
          LARGE: { on: 'host', path: `${directory}/large`, description: 'Kept' },
          SCRATCH: { on: 'target', path: `${directory}/scratch` },
        },
      }),
    });
    site = await rig.makeSite(owner);
    alice = rig.as('alice');
  });
  after(() => scope.close());

  const places = [
    ['a target system', () => `${site}-SCRATCH`, () => join(rig.directory, 'scratch')],
    [
      'the host',
      () => 'LARGE',
      () =>
        join(
          rig.directory,
          'large',
          readdirSync(join(rig.directory, 'large')).find((name) => name.startsWith('alice')) ?? '',
        ),
    ],
  ] as const;
  for (const [where, storage, directory] of places)
    it(`have their size, come down in ranges and grow at their end, on ${where}`, async () => {
      const files = `/storages/${storage()}/files`;
      assert.equal((await alice('PUT', `${files}/small`, { body: 'x' })).status, 204);
      makeLarge(join(directory(), 'big'));
      const shown = await alice('GET', `${files}/big`);
      assert.equal(shown.body['size'], sizeBytes, shown.text);
      const accept = 'application/octet-stream';
      const head = await alice('HEAD', `${files}/big`, { headers: { accept } });
      assert.equal(head.headers['content-length'], String(sizeBytes));
      for (const range of [`bytes=${sizeBytes - mark.length}-`, `bytes=-${mark.length}`]) {
        const part = await alice('GET', `${files}/big`, { headers: { accept, range } });
        const first = sizeBytes - mark.length;
        assert.deepEqual(
          [part.status, part.text, part.headers['content-range']],
          [206, mark, `bytes ${first}-${sizeBytes - 1}/${sizeBytes}`],
        );
      }
      const space = (await rig.storages.get(storage())).files(owner);
      await space.write('/big', Readable.from([Buffer.from('!')]), { append: true });
      assert.equal((await space.stat('/big')).sizeBytes, sizeBytes + 1);
      const headers = { accept, range: 'bytes=-4' };
      assert.equal((await alice('GET', `${files}/big`, { headers })).text, 'ile!');
    });
});
