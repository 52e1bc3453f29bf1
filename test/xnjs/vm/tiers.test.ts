import assert from 'node:assert/strict';
import { readFile, stat, truncate, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { describe, it } from 'node:test';
import { GridError } from '#kernel/errors.js';
import { silentLog } from '#kernel/log.js';
import { Scope } from '#kernel/scope.js';
import { SparesConfig, WarmConfig } from '#xnjs/vm/tiers/config.js';
import { Demand } from '#xnjs/vm/tiers/demand.js';
import { HotImages, surplusOf } from '#xnjs/vm/tiers/hot-images.js';
import { needsIdentity, sharesIdentity } from '#xnjs/vm/tiers/identity.js';
import { findIdentity, giveIdentity } from '#xnjs/vm/tiers/memory-file.js';
import { OwnMemoryFiles } from '#xnjs/vm/tiers/memory-files.js';
import { ShiftedClock } from '../../targetsystem/shifted-clock.js';
import { scratch } from '../job/rig.js';
import { anImageMetadata, aTargetSystem } from './samples.js';

const from = {
  id: '5b3f0c1e-8d52-4a94-9a50-0f0e3a1f2b3c',
  bootId: '01234567-89ab-4cde-8f01-23456789abcd',
};
const to = {
  id: 'a1b2c3d4-e5f6-4718-893a-4b5c6d7e8f90',
  bootId: 'fedcba98-7654-4321-8fed-cba987654321',
};

/** What the memory of a machine holds of its identity, by hand. */
const memoryOf = (upper: string, name: string, smbios: string, { id, bootId }: typeof from) =>
  Buffer.concat([
    Buffer.from(`<name>vsite-${id}</name><uuid>${id}</uuid>`),
    // the longest text that a chunk of reading may cut in two
    Buffer.alloc(4 * 1024 * 1024 - 100, 'x'),
    Buffer.from(`${upper} vsite.name=${name} ${bootId}\0`),
    Buffer.from(smbios, 'hex'),
    Buffer.from(id.replaceAll('-', ''), 'hex'),
    Buffer.from(bootId.replaceAll('-', ''), 'hex'),
  ]);
const original = memoryOf(
  ...(['5B3F0C1E-8D52-4A94-9A50-0F0E3A1F2B3C', 'vsite-5b3f0c1e'] as const),
  ...(['1e0c3f5b528d944a9a500f0e3a1f2b3c', from] as const),
);
const copy = memoryOf(
  ...(['A1B2C3D4-E5F6-4718-893A-4B5C6D7E8F90', 'vsite-a1b2c3d4'] as const),
  ...(['d4c3b2a1f6e51847893a4b5c6d7e8f90', to] as const),
);

describe('start tiers', () => {
  /** Saved memory of a machine, and of no other. */
  async function aTemplate(scope: Scope) {
    const directory = scratch(scope);
    const template = { id: from.id, parameters: aTargetSystem().parameters };
    const files = new OwnMemoryFiles({ directoryOf: (id) => join(directory, id) });
    const source = await files.begin(template);
    await writeFile(source, original);
    await using file = await files.open(template);
    return { files, template, source, patches: await findIdentity(file, from) };
  }

  it('give a copy of memory the identity of another machine, and change nothing else', async () => {
    await using scope = new Scope();
    const { files, template, source, patches } = await aTemplate(scope);
    await files.copy(template, to.id);
    await using file = await files.open(template, { copyId: to.id });
    await giveIdentity(file, { patches, from, to });
    assert.deepEqual(await readFile(source), original);
    assert.ok((await readFile(await files.pathOf(template, to.id))).equals(copy));
    assert.deepEqual(await findIdentity(file, from), []);
    assert.deepEqual(await files.copies(template), [to.id]);
    await files.drop(template, to.id);
    assert.deepEqual(await files.copies(template), []);
  });

  it('have copies whose memory is in a file of its own, with its holes, until they are dropped', async () => {
    await using scope = new Scope();
    const { files, template, source } = await aTemplate(scope);
    const ram = join(dirname(source), 'memory.ram');
    await writeFile(ram, 'x');
    await truncate(ram, 64 * 1024 * 1024);
    await files.copy(template, to.id);
    await files.copy(template, to.id); // an attempt whose end nobody has heard of came before
    const path = await files.pathOf(template, to.id, 'ram');
    const { size, blocks } = await stat(path);
    assert.equal(size, 64 * 1024 * 1024);
    assert.ok(blocks * 512 < 1024 * 1024, `${blocks} blocks`);
    await files.drop(template, to.id);
    await assert.rejects(stat(dirname(path)), { code: 'ENOENT' });
  });

  it('refuse memory that is not the one that was looked through', async () => {
    await using scope = new Scope();
    const { files, template, source, patches } = await aTemplate(scope);
    for (const other of [original.subarray(0, 1_000), Buffer.alloc(original.length, 'y')]) {
      await writeFile(source, other);
      await files.copy(template, to.id);
      await using file = await files.open(template, { copyId: to.id });
      await assert.rejects(giveIdentity(file, { patches, from, to }), /is another/);
    }
  });

  it('want spares of images that are asked for often, most of all of those asked for most', () => {
    const demand = new Demand({ max: 2, requests: 2, withinSeconds: 10 });
    for (const [image, times] of [
      ['rare', 1],
      ['often', 3],
      ['most', 9],
    ] as const)
      for (let i = 0; i < times; i++) demand.note(image, 'CN=A', 1_000 + i);
    const counts = (nowMs: number) =>
      demand.wanted(nowMs).map(({ imageId, count }) => [imageId, count]);
    assert.deepEqual(counts(2_000), [
      ['most', 2],
      ['often', 1],
    ]);
    assert.deepEqual(counts(30_000), []);
  });

  it('keep memory that the configuration names, then what users have had last', () => {
    const kept = (id: string, usedMs: number, rank?: number) => ({
      ...{ id, usedMs, rank, memoryMiB: 400 },
    });
    const all = [kept('old', 1), kept('second', 0, 1), kept('late', 9), kept('first', 0, 0)];
    const surplus = (maxImages: number, maxDiskMiB: number) => [
      ...surplusOf(all, { maxImages, maxDiskMiB }),
    ];
    assert.deepEqual(surplus(4, 10_000), []);
    assert.deepEqual(surplus(3, 10_000), ['old']);
    assert.deepEqual(surplus(1, 10_000), ['second', 'late', 'old']);
    assert.deepEqual(surplus(4, 1_700), ['late', 'old']);
    assert.deepEqual(surplus(0, 10_000).length, 4);
  });

  it('save memory beforehand of what is named, and of what is published under a name that is asked for', async () => {
    const metadata = (name: string) => anImageMetadata({ format: 'kernel', name });
    const published = new Map([
      ['named', 'n1'],
      ['CN=A asked', 'a1'],
      ['CN=B asked', 'b1'], // what B may see
      ['spared', 's1'],
    ]);
    const find = (reference: string, callerDn: string) => {
      const id = published.get(`${callerDn} ${reference}`) ?? published.get(reference);
      if (id === undefined) return Promise.reject(new GridError('IMAGE_UNKNOWN', 'none'));
      const [owner, state, created] = ['CN=C', 'PUBLISHED', ''] as const;
      return Promise.resolve({ id, owner, state, created, parts: {}, metadata: metadata('asked') });
    };
    const clock = new ShiftedClock();
    const hot = new HotImages({
      ...{ images: { find }, clock, log: silentLog },
      config: WarmConfig.parse({ maxImages: 4, images: ['named', 'not yet'], readAs: 'CN=C' }),
      spares: SparesConfig.parse({ images: { spared: 1, none: 0 }, readAs: 'CN=C' }),
    });
    const saved = (ownerDn: string, isNewest: boolean) => ({
      ...{ ...aTargetSystem(), fingerprint: '', kind: '', ownerDn, isNewest },
      image: { id: 'older', parts: {}, metadata: metadata('asked') },
    });
    const list = async () => {
      const all = await hot.list([saved('CN=A', true), saved('CN=B', false)]);
      return all.map(({ image, ownerDn, rank }) => [image.id, ownerDn, rank]);
    };
    const known = [
      ['n1', 'CN=C', 0],
      ['s1', 'CN=C', 2],
    ];
    assert.deepEqual(await list(), [...known, ['a1', 'CN=A', undefined]]);
    published.set('CN=A asked', 'a2').set('not yet', 'y1');
    clock.advance(30_000);
    const [named, spared] = known;
    const later = [named, ['y1', 'CN=C', 1], spared, ['a2', 'CN=A', undefined]];
    assert.deepEqual(await list(), later);
    assert.equal(await hot.isNewest(saved('CN=B', true).image, 'CN=B'), false);
  });

  for (const [path, config] of [
    ['readAs', { maxImages: 1, images: ['demo'] }],
    ['maxImages', { images: ['demo'], readAs: 'CN=A' }],
  ] as const)
    it(`need ${path} where images are named whose memory is saved`, () => {
      assert.deepEqual(WarmConfig.safeParse(config).error?.issues[0]?.path, [path]);
    });

  it('need to be told who reads images that are configured', () => {
    const { error } = SparesConfig.safeParse({ images: { demo: 1 } });
    assert.deepEqual(error?.issues[0]?.path, ['readAs']);
  });

  const cases = [
    ['a spare', 'INITIALIZING', 'spare', {}, true],
    ['a copy', 'INITIALIZING', 'warm', {}, true],
    ['a spare that has one', 'INITIALIZING', 'spare', { identityMs: 5 }, false],
    ['a spare that was halted before it had one', 'PAUSED', 'spare', {}, true],
    ['a machine that was booted', 'INITIALIZING', 'cold', {}, false],
    ['a spare that failed', 'FAILED', 'spare', {}, false],
  ] as const;
  it('do not give an identity to a machine that was started again', () => {
    const start = { tier: 'spare', reason: '' } as const;
    assert.ok(!needsIdentity({ state: 'INITIALIZING', start, boot: {}, bootFromMs: 1 }));
  });

  const cold = { start: { tier: 'cold', reason: '' }, state: 'INITIALIZING', boot: {} } as const;
  const agent = { says: 'up', fact: '', sinceMs: 1 } as const;
  const of = (format: string, more: object = {}) => ({
    image: { id: 'i', parts: {}, metadata: anImageMetadata({ format, ...more }) },
  });
  for (const [what, system, expected] of [
    ['a machine of a disk image', of('qcow2'), true],
    ['a container', of('rootfs'), true],
    ['a kernel, which has nothing of its own', of('kernel'), false],
    ['one that its seed disk tells', of('qcow2', { contextualisation: { nocloud: true } }), false],
    ['one that has got it', { ...of('qcow2'), boot: { identityMs: 5 } }, false],
    ['one that was READY before', { ...of('qcow2'), views: { agent } }, false],
    ['one that is started again, from its own disk', { ...of('qcow2'), generation: 2 }, false],
    ['a spare', { ...of('qcow2'), start: { tier: 'spare', reason: '' } as const }, false],
  ] as const)
    it(`${expected ? 'is given' : 'is not given'} at its first boot to ${what}`, () => {
      assert.equal(sharesIdentity({ ...aTargetSystem(cold), ...system }), expected);
    });

  for (const [what, state, tier, boot, expected] of cases)
    it(`${expected ? 'give' : 'do not give'} an identity to ${what}`, () => {
      assert.equal(needsIdentity({ state, start: { tier, reason: '' }, boot }), expected);
    });
});
