import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { buffer } from 'node:stream/consumers';
import { after, before, describe, it } from 'node:test';
import { imageRoutes, type PartName } from '#imagerepo/contract.js';
import { bzImage, gzipped, metadata, qcow2, tar, type Metadata } from './samples.js';
import { Service, type TestClient } from './service.js';

const sha256 = (content: Buffer) => createHash('sha256').update(content).digest('hex');

describe('the image repository', () => {
  let service: Service;
  let alice: TestClient;
  let bob: TestClient;

  before(async () => {
    service = await Service.start({ maxDiskBytes: 2 ** 40 });
    alice = service.as('alice');
    bob = service.as('bob');
  });
  after(() => service.scope.close());

  async function published(changes: Partial<Metadata> = {}, filler = 'x'): Promise<string> {
    const id = await alice.create(changes);
    await alice.put(id, 'kernel', bzImage(filler));
    await alice.put(id, 'initrd', gzipped(filler));
    await alice.publish(id);
    return id;
  }

  describe('takes an image', () => {
    it('from its metadata to its download', async () => {
      const created = await alice.http.json('POST', imageRoutes.images, metadata());
      assert.equal(created.status, 201);
      assert.match(
        String(created.headers['location']),
        /^https:\/\/grid\.example\/IMAGES\/rest\/images\//,
      );
      const id = String(created.headers['location']).split('/').at(-1)!;
      const kernel = bzImage('download me');
      assert.equal(await alice.put(id, 'kernel', kernel), sha256(kernel));
      await alice.put(id, 'initrd', gzipped());
      assert.equal((await alice.get(id)).state, 'INCOMPLETE');
      await alice.publish(id);
      const record = await alice.get(id);
      assert.equal(record.state, 'PUBLISHED');
      assert.equal(record.owner, 'CN=alice');
      assert.match(record.created, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+0000$/);
      assert.deepEqual(record.parts.kernel, { sha256: sha256(kernel), sizeBytes: kernel.length });
      const { body, headers } = await alice.http.download(imageRoutes.part(id, 'kernel'));
      assert.deepEqual(await buffer(body), kernel);
      assert.equal(headers['content-length'], `${kernel.length}`);
    });

    it('and gives ranges of its parts', async () => {
      const id = await published();
      const range = async (value: string) => {
        const answer = await alice.http.download(imageRoutes.part(id, 'kernel'), {
          headers: { range: value },
        });
        const text = (await buffer(answer.body)).toString('latin1');
        return [answer.status, answer.headers['content-range'], text];
      };
      assert.deepEqual(await range('bytes=514-517'), [206, 'bytes 514-517/1024', 'HdrS']);
      assert.deepEqual(await range('bytes=1023-'), [206, 'bytes 1023-1023/1024', '\0']);
      assert.deepEqual(await range('bytes=-1'), [206, 'bytes 1023-1023/1024', '\0']);
      await assert.rejects(range('bytes=1024-'), { code: 'RANGE_NOT_SATISFIABLE' });
    });

    it('changes its metadata until it is published, then only how it is shown', async () => {
      const id = await alice.create();
      const change = (changes: object) => alice.http.json('PUT', imageRoutes.image(id), changes);
      await change({ version: '1.1', applications: [] });
      assert.equal((await alice.get(id)).metadata.version, '1.1');
      assert.deepEqual((await alice.get(id)).metadata.applications, []);
      await assert.rejects(change({ version: '1 1' }), { code: 'BAD_REQUEST' });
      await alice.put(id, 'kernel', bzImage());
      await assert.rejects(change({ format: 'rootfs' }), { code: 'CONFLICT' });
      await alice.put(id, 'initrd', gzipped());
      await alice.publish(id);
      await assert.rejects(change({ version: '1.2' }), { code: 'CONFLICT' });
      await change({ description: 'better', visibility: 'public' });
      assert.equal((await bob.get(id)).metadata.description, 'better');
      await assert.rejects(alice.put(id, 'kernel', bzImage()), { code: 'CONFLICT' });
    });
  });

  describe('refuses', () => {
    const refusals: readonly (readonly [string, object, string])[] = [
      ['an unknown field', { ...metadata(), colour: 'red' }, 'BAD_REQUEST'],
      ['a missing field', { ...metadata(), os: undefined }, 'BAD_REQUEST'],
      [
        'an application named twice',
        metadata({
          applications: [0, 1].map(() => ({ Name: 'A', Version: '1', Executable: 'a' })),
        }),
        'BAD_REQUEST',
      ],
      [
        'limits in the wrong order',
        metadata({
          requirements: {
            cpus: { min: 4, default: 1, max: 2 },
            memoryMiB: { min: 1, default: 1, max: 1 },
          },
        }),
        'BAD_REQUEST',
      ],
      ['oversized metadata', { ...metadata(), description: 'x'.repeat(1_100_000) }, 'TOO_LARGE'],
    ];
    for (const [what, body, code] of refusals)
      it(what, async () => {
        await assert.rejects(alice.http.json('POST', imageRoutes.images, body), { code });
      });

    it('to publish an image without all its parts, and parts of another format', async () => {
      const id = await alice.create();
      await alice.put(id, 'kernel', bzImage());
      await assert.rejects(alice.publish(id), { code: 'BAD_REQUEST' });
      await assert.rejects(alice.put(id, 'rootfs', tar()), { code: 'BAD_REQUEST' });
      await assert.rejects(alice.http.download(imageRoutes.part(id, 'initrd')), {
        code: 'NOT_FOUND',
      });
    });

    it('an application version without an application', async () => {
      await assert.rejects(alice.list('applicationVersion=1'), { code: 'BAD_REQUEST' });
    });
  });

  describe('looks into what is published', () => {
    const contents: readonly (readonly [string, Metadata['format'], PartName, Buffer, boolean])[] =
      [
        ['takes a tar archive', 'rootfs', 'rootfs', tar(), true],
        ['refuses a damaged tar archive', 'rootfs', 'rootfs', tar().fill(1, 0, 3), false],
        ['refuses an empty root file system', 'rootfs', 'rootfs', Buffer.alloc(0), false],
        ['takes a version 3 disk', 'qcow2', 'disk', qcow2(), true],
        ['takes a version 2 disk', 'qcow2', 'disk', qcow2({ version: 2 }), true],
        ['refuses garbage as a disk', 'qcow2', 'disk', Buffer.alloc(65_536, 'QF'), false],
        ['refuses a short disk', 'qcow2', 'disk', qcow2().subarray(0, 90), false],
        ['refuses a disk of an unknown version', 'qcow2', 'disk', qcow2({ version: 4 }), false],
        ['refuses a backing file', 'qcow2', 'disk', qcow2({ backingFile: '/etc/passwd' }), false],
        ['refuses a data file', 'qcow2', 'disk', qcow2({ features: 4n }), false],
        [
          'refuses the name of a data file',
          'qcow2',
          'disk',
          qcow2({ extension: [0x44415441, '/etc/passwd'] }),
          false,
        ],
        [
          'refuses a backing format',
          'qcow2',
          'disk',
          qcow2({ extension: [0xe2792aca, 'raw'] }),
          false,
        ],
        ['refuses a corrupt disk', 'qcow2', 'disk', qcow2({ features: 2n }), false],
        [
          'takes harmless extensions',
          'qcow2',
          'disk',
          qcow2({ extension: [0x6803f857, 'feature names'] }),
          true,
        ],
        [
          'refuses an extension without end',
          'qcow2',
          'disk',
          qcow2({ extension: [7, 'x'.repeat(65_430)] }),
          false,
        ],
        ['refuses a disk of 2 TiB', 'qcow2', 'disk', qcow2({ diskBytes: 1n << 41n }), false],
        ['refuses a disk of nothing', 'qcow2', 'disk', qcow2({ diskBytes: 0n }), false],
        ['refuses tiny clusters', 'qcow2', 'disk', qcow2({ clusterBits: 3 }), false],
        ['refuses an encrypted disk', 'qcow2', 'disk', qcow2({ encryption: 2 }), false],
        [
          'refuses a table beyond the end',
          'qcow2',
          'disk',
          qcow2({ l1Entries: 0x7fffffff }),
          false,
        ],
      ];
    for (const [what, format, part, content, good] of contents)
      it(what, async () => {
        const id = await alice.create({ format });
        await alice.put(id, part, content);
        if (good) await alice.publish(id);
        else await assert.rejects(alice.publish(id), { code: 'BAD_REQUEST' });
        const { state, parts } = await alice.get(id);
        assert.equal(state, good ? 'PUBLISHED' : 'INCOMPLETE');
        const isDisk = good && part === 'disk';
        assert.equal(parts[part]?.virtualBytes, isDisk ? 2 ** 30 : undefined);
      });

    const cpio = Buffer.from('070701'.padEnd(110, '0'));
    const elf = (machine: number) => {
      const image = Buffer.alloc(64);
      image.write('\x7fELF', 'latin1');
      image.writeUInt16LE(machine, 18);
      return image;
    };
    const arm = Buffer.alloc(64);
    arm.write('ARM\x64', 0x38, 'latin1');
    const boots: readonly (readonly [string, 'x86_64' | 'aarch64', Buffer, Buffer, boolean])[] = [
      ['takes an ELF kernel and a plain cpio', 'x86_64', elf(62), cpio, true],
      ['takes an arm64 kernel', 'aarch64', arm, cpio, true],
      ['refuses a kernel of another architecture', 'aarch64', bzImage(), cpio, false],
      ['refuses an ELF program of another machine', 'x86_64', elf(183), cpio, false],
      ['refuses a text as a kernel', 'x86_64', Buffer.from('#!/bin/sh\n'), cpio, false],
      ['refuses a text as a RAM disk', 'x86_64', bzImage(), Buffer.from('hello'), false],
    ];
    for (const [what, architecture, kernel, initrd, good] of boots)
      it(what, async () => {
        const id = await alice.create({ os: { distribution: 'D', version: '1', architecture } });
        await alice.put(id, 'kernel', kernel);
        await alice.put(id, 'initrd', initrd);
        if (good) await alice.publish(id);
        else await assert.rejects(alice.publish(id), { code: 'BAD_REQUEST' });
      });
  });

  describe('shows images', () => {
    it('to their owner and administrators; to others when public and published', async () => {
      const id = await alice.create({ visibility: 'public', name: 'Seen' });
      const admin = service.as('root/admin');
      await assert.rejects(bob.get(id), { code: 'NOT_FOUND' });
      assert.deepEqual(await bob.list('name=Seen'), []);
      assert.deepEqual(await alice.list('name=Seen'), [id]);
      assert.deepEqual(await admin.list('name=Seen'), [id]);
      await alice.put(id, 'kernel', bzImage());
      await alice.put(id, 'initrd', gzipped());
      await alice.publish(id);
      assert.deepEqual(await bob.list('name=Seen'), [id]);
      await (await bob.http.download(imageRoutes.part(id, 'kernel'))).body.forEach(() => undefined);
    });

    it('to nobody else: what is private is unknown, what is public cannot be changed', async () => {
      const shown = await published({ visibility: 'public' });
      const hidden = await published();
      for (const [id, code] of [
        [shown, 'FORBIDDEN'],
        [hidden, 'NOT_FOUND'],
      ] as const) {
        await assert.rejects(bob.delete(id), { code });
        await assert.rejects(bob.publish(id), { code });
        await assert.rejects(bob.put(id, 'kernel', bzImage()), { code });
        await assert.rejects(bob.http.json('PUT', imageRoutes.image(id), { description: '' }), {
          code,
        });
      }
      await assert.rejects(bob.http.download(imageRoutes.part(hidden, 'kernel')), {
        code: 'NOT_FOUND',
      });
    });

    it('not to anonymous or banned callers', async () => {
      const id = await published({ visibility: 'public' });
      for (const nobody of [service.as(), service.as('mallory/banned')]) {
        await assert.rejects(nobody.list(), { code: 'FORBIDDEN' });
        await assert.rejects(nobody.get(id), { code: 'FORBIDDEN' });
        await assert.rejects(nobody.get('00000000-0000-4000-8000-000000000000'), {
          code: 'FORBIDDEN',
        });
        await assert.rejects(nobody.create(), { code: 'FORBIDDEN' });
        await assert.rejects(nobody.delete(id), { code: 'FORBIDDEN' });
        await assert.rejects(nobody.http.download(imageRoutes.part(id, 'kernel')), {
          code: 'FORBIDDEN',
        });
      }
    });

    it('by what they provide', async () => {
      const app = (Name: string, Version: string) => ({ Name, Version, Executable: '/bin/x' });
      const one = await alice.create({
        name: 'One',
        applications: [app("O'Brien".replace("'", ' '), '1'), app('Povray', '3.5')],
      });
      const two = await alice.create({
        name: 'Two',
        format: 'qcow2',
        applications: [app('Povray', '3.7'), app('Povray', '3.8')],
        os: { distribution: 'Alpine', version: '3.20' },
      });
      const search = async (query: string) => (await alice.list(query)).sort();
      assert.deepEqual(await search('application=Povray'), [one, two].sort());
      assert.deepEqual(await search('application=Povray&applicationVersion=3.7'), [two]);
      assert.deepEqual(await search('application=Povray&os=Alpine'), [two]);
      assert.deepEqual(await search('os=Alpine&osVersion=3.20'), [two]);
      assert.deepEqual(await search('application=Povray&format=kernel'), [one]);
      assert.deepEqual(await search('application=Povray&architecture=aarch64'), []);
      assert.deepEqual(await search('application=Povray&state=PUBLISHED'), []);
      assert.deepEqual(await search('name=Two&version=1.0'), [two]);
      assert.deepEqual(await search(`application=${encodeURIComponent("' OR '1'='1")}`), []);
      assert.deepEqual(await bob.list('application=Povray'), []);
      assert.deepEqual(await bob.list('owner=me'), []);
      const details = await alice.http.json('GET', `${imageRoutes.images}?name=Two&details=true`);
      const { records } = details.body as { records: { id: string }[] };
      assert.deepEqual(
        records.map(({ id }) => id),
        [two],
      );
    });

    it('in pages whose links lead through all of them, newest first', async () => {
      const carol = service.as('carol');
      const ids: string[] = [];
      for (let i = 0; i < 5; i++) ids.push(await carol.create());
      const seen: string[] = [];
      let path: string | undefined = `${imageRoutes.images}?num=2&owner=me`;
      while (path !== undefined) {
        const { body } = await carol.http.json('GET', path);
        const page = body as { images: string[]; _links: { next?: { href: string } } };
        seen.push(...page.images.map((url) => url.split('/').at(-1)!));
        path = page._links.next?.href.slice('https://grid.example/IMAGES'.length);
      }
      assert.deepEqual(seen.sort(), ids.sort());
      await assert.rejects(carol.list('offset=-1'), { code: 'BAD_REQUEST' });
    });
  });

  describe('keeps equal content once', () => {
    it('until the last image that has it is deleted', async () => {
      const first = await published({}, 'shared');
      const second = await published({}, 'shared');
      const digest = sha256(bzImage('shared'));
      await alice.delete(first);
      assert.ok((await service.files()).blobs.includes(digest));
      await assert.rejects(alice.get(first), { code: 'NOT_FOUND' });
      await alice.delete(second);
      assert.ok(!(await service.files()).blobs.includes(digest));
    });

    it('and lets go of a content that is replaced', async () => {
      const id = await alice.create();
      const before = await alice.put(id, 'kernel', bzImage('before'));
      const after = await alice.put(id, 'kernel', bzImage('after'));
      const { blobs } = await service.files();
      assert.deepEqual([blobs.includes(before), blobs.includes(after)], [false, true]);
    });

    it('also when many are uploaded and deleted at the same time', async () => {
      const round = async () => {
        const id = await alice.create();
        await alice.put(id, 'kernel', bzImage('contended'));
        if (Math.random() < 0.5) return [id];
        await alice.delete(id);
        return [];
      };
      const kept = (await Promise.all(Array.from({ length: 24 }, round))).flat();
      const digest = sha256(bzImage('contended'));
      assert.equal((await service.files()).blobs.includes(digest), kept.length > 0);
      for (const id of kept) await alice.delete(id);
      assert.ok(!(await service.files()).blobs.includes(digest));
    });
  });
});
