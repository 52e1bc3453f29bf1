import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { mkdir, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { Readable } from 'node:stream';
import { after, before, describe, it, type TestContext } from 'node:test';
import { Sequelize } from 'sequelize';
import { blobPath, imageRoutes } from '#imagerepo/contract.js';
import { BlobStore } from '#imagerepo/store/blob-store.js';
import { Scope } from '#kernel/scope.js';
import { noPostgres, startPostgres } from '../kernel/persistence/postgres.js';
import { mountTinyDisk } from '../kernel/persistence/tiny-disk.js';
import { bzImage, gzipped } from './samples.js';
import { Service, until, type TestClient } from './service.js';

const sha256 = (content: Buffer) => createHash('sha256').update(content).digest('hex');
const empty = { blobs: [], incoming: [] };

describe('an upload that fails leaves nothing', () => {
  let service: Service;
  let alice: TestClient;
  let id: string;

  before(async () => {
    service = await Service.start({ maxPartBytes: 4 * 1024 * 1024 });
    alice = service.as('alice');
    id = await alice.create();
  });
  after(() => service.scope.close());

  it('when the client leaves in the middle', async () => {
    const abort = new AbortController();
    async function* slowly(): AsyncGenerator<Buffer> {
      yield randomBytes(100_000);
      await until(async () => (await service.files()).incoming.length > 0);
      abort.abort();
      yield randomBytes(100_000);
    }
    const upload = alice.http.upload(
      'PUT',
      imageRoutes.part(id, 'kernel'),
      Readable.from(slowly()),
      {
        signal: abort.signal,
      },
    );
    await assert.rejects(upload, { name: 'AbortError' });
    await until(async () => (await service.files()).incoming.length === 0);
    assert.deepEqual(await service.files(), empty);
    assert.deepEqual((await alice.get(id)).parts, {});
  });

  const content = bzImage('digests');
  const right = createHash('sha256').update(content).digest('base64');
  const wrong = createHash('sha256').update('other').digest('base64');
  const upload = (headers: Record<string, string>, query = '') =>
    alice.http.upload('PUT', imageRoutes.part(id, 'kernel') + query, Readable.from([content]), {
      headers,
    });
  const wrongOnes: readonly (readonly [string, Record<string, string>, string])[] = [
    ['in the query', {}, `?sha256=${sha256(Buffer.from('other'))}`],
    ['in Repr-Digest', { 'repr-digest': `sha-256=:${wrong}:` }, ''],
    ['in Content-Digest', { 'content-digest': `md5=:AAAA:, sha-256=:${wrong}:` }, ''],
    ['in Digest', { digest: `SHA-256=${wrong}` }, ''],
    ['malformed', { digest: 'SHA-256=short' }, ''],
  ];
  for (const [where, headers, query] of wrongOnes)
    it(`when the digest is wrong, ${where}`, async () => {
      await assert.rejects(upload(headers, query), { code: 'BAD_REQUEST' });
      assert.deepEqual(await service.files(), empty);
    });

  it('when it is larger than allowed, announced or not', async () => {
    const large = randomBytes(5 * 1024 * 1024);
    const parts = () => Readable.from(chunksOf(large));
    const path = imageRoutes.part(id, 'kernel');
    await assert.rejects(alice.http.upload('PUT', path, parts()), { code: 'TOO_LARGE' });
    await assert.rejects(alice.http.upload('PUT', path, parts(), { sizeBytes: large.length }), {
      code: 'TOO_LARGE',
    });
    assert.deepEqual(await service.files(), empty);
  });

  it('when the image is deleted meanwhile', async () => {
    const doomed = await alice.create();
    async function* source(): AsyncGenerator<Buffer> {
      yield bzImage();
      await until(async () => (await service.files()).incoming.length > 0);
      await alice.delete(doomed);
      yield bzImage();
    }
    const put = alice.put(doomed, 'kernel', Readable.from(source()));
    await assert.rejects(put, { code: 'NOT_FOUND' });
    assert.deepEqual(await service.files(), empty);
  });

  it('while a right digest is taken', async () => {
    for (const headers of [{ 'repr-digest': `sha-256=:${right}:` }, { digest: `sha-256=${right}` }])
      assert.equal((await upload(headers)).status, 200);
    const { status } = await upload({}, `?sha256=${sha256(content).toUpperCase()}`);
    assert.equal(status, 200);
    await alice.delete(id);
    assert.deepEqual(await service.files(), empty);
  });
});

describe('a full disk', () => {
  it('is STORAGE_FULL, leaves nothing, and is no trouble once there is space', async (test) => {
    await using disks = new Scope();
    const disk = await mountTinyDisk(disks, '4m');
    if ('skip' in disk) {
      test.skip(disk.skip);
      return;
    }
    const service = await Service.start({ storeDirectory: join(disk.path, 'store') });
    disks.defer(() => service.scope.close());
    const alice = service.as('alice');
    const id = await alice.create();
    const tooLarge = Readable.from(chunksOf(randomBytes(6 * 1024 * 1024)));
    await assert.rejects(alice.put(id, 'kernel', tooLarge), { code: 'STORAGE_FULL' });
    assert.deepEqual(await service.files(), empty);
    await alice.put(id, 'kernel', Readable.from(chunksOf(randomBytes(2 * 1024 * 1024))));
    assert.equal((await service.files()).blobs.length, 1);
  });
});

async function startFor(test: TestContext): Promise<Service> {
  const service = await Service.start();
  test.after(() => service.scope.close());
  return service;
}

describe('after a kill', () => {
  /** Brings about what a kill leaves, while the service is down. */
  async function restartAfter(
    service: Service,
    damage: (sql: (text: string) => Promise<unknown>) => Promise<void>,
  ): Promise<void> {
    await service.stop();
    const database = new Sequelize({
      dialect: 'sqlite',
      storage: service.databasePath,
      logging: false,
    });
    await damage((text) => database.query(text));
    await database.close();
    await service.resume();
  }

  it('unfinished uploads and contents without a record are gone', async (test) => {
    const service = await startFor(test);
    const id = await service.as('alice').create();
    const kept = await service.as('alice').put(id, 'kernel', bzImage());
    const stray = join(service.storeDirectory, blobPath(sha256(Buffer.from('stray'))));
    await restartAfter(service, async () => {
      const [earlier] = await readdir(join(service.storeDirectory, 'incoming'));
      await writeFile(join(service.storeDirectory, 'incoming', earlier!, 'half'), 'half');
      await mkdir(dirname(stray), { recursive: true });
      await writeFile(stray, 'stray');
    });
    assert.deepEqual(await service.files(), { blobs: [kept], incoming: [] });
    assert.equal((await service.as('alice').get(id)).parts.kernel?.sha256, kept);
  });

  it('deletions are finished, whichever step they had reached', async (test) => {
    const service = await startFor(test);
    const alice = service.as('alice');
    const [begun, half, other] = [await alice.create(), await alice.create(), await alice.create()];
    const shared = await alice.put(other, 'kernel', bzImage('shared'));
    await alice.put(begun, 'kernel', bzImage('shared'));
    await alice.put(begun, 'initrd', gzipped('own'));
    await alice.put(half, 'initrd', gzipped('half'));
    await restartAfter(service, async (sql) => {
      await sql(`UPDATE images SET state = 'DELETING' WHERE id IN ('${begun}', '${half}')`);
      await sql(`DELETE FROM image_parts WHERE image_id = '${half}'`);
    });
    assert.deepEqual(await service.files(), { blobs: [shared], incoming: [] });
    assert.deepEqual(await service.as('root/admin').list(), [other]);
  });

  it('images that are being deleted are not shown', async (test) => {
    const service = await startFor(test);
    const alice = service.as('alice');
    const id = await alice.create();
    const database = new Sequelize({
      dialect: 'sqlite',
      storage: service.databasePath,
      logging: false,
    });
    await database.query(`UPDATE images SET state = 'DELETING'`);
    await database.close();
    await assert.rejects(alice.get(id), { code: 'NOT_FOUND' });
    await assert.rejects(service.as('root/admin').delete(id), { code: 'NOT_FOUND' });
    assert.deepEqual(await alice.list(), []);
  });
});

describe('with PostgreSQL', { skip: noPostgres }, () => {
  it('images are created, found, published and deleted as with SQLite', async (test) => {
    const servers = new Scope();
    test.after(() => servers.close());
    const url = await startPostgres(servers);
    const service = await Service.start({ database: { url } });
    servers.defer(() => service.scope.close());
    const alice = service.as('alice');
    const ids = await Promise.all(Array.from({ length: 8 }, () => alice.create()));
    for (const id of ids) {
      await alice.put(id, 'kernel', bzImage());
      await alice.put(id, 'initrd', gzipped());
    }
    await alice.http.json('PUT', imageRoutes.image(ids[0]!), {
      visibility: 'public',
      version: '2',
    });
    await Promise.all(ids.map((id) => alice.publish(id)));
    assert.deepEqual(await service.as('bob').list('application=Date&version=2'), [ids[0]]);
    assert.equal((await alice.get(ids[0]!)).parts.kernel?.sizeBytes, bzImage().length);
    assert.equal((await alice.list('application=Date&applicationVersion=1.0&num=5')).length, 5);
    await Promise.all(ids.map((id) => alice.delete(id)));
    assert.deepEqual(await service.files(), empty);
  });
});

describe('the store', () => {
  it('keeps contents read-only under the name that the contract tells', async (test) => {
    const service = await startFor(test);
    const alice = service.as('alice');
    const digest = await alice.put(await alice.create(), 'kernel', bzImage());
    const path = join(service.storeDirectory, blobPath(digest));
    assert.deepEqual(await readFile(path), bzImage());
    assert.equal((await stat(path)).mode & 0o777, 0o444);
  });

  it('may be closed twice, and opened where there was none', async () => {
    const service = await Service.start();
    await service.scope.close();
    await service.scope.close();
    const directory = join(service.directory, 'new');
    await BlobStore.open(directory);
    await rm(service.directory, { recursive: true });
  });
});

function* chunksOf(content: Buffer): Generator<Buffer> {
  for (let at = 0; at < content.length; at += 65_536) yield content.subarray(at, at + 65_536);
}
