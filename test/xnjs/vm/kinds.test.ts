import assert from 'node:assert/strict';
import { it } from 'node:test';
import { silentLog as log } from '#kernel/log.js';
import type { Host } from '#xnjs/vm/hosts/host.js';
import { Hosts } from '#xnjs/vm/hosts/hosts.js';
import type { HostStorage } from '#xnjs/vm/hosts/storage/host-storage.js';
import type { Hypervisor } from '#xnjs/vm/hypervisor.js';
import { Flavours } from '#xnjs/vm/placement/flavours.js';
import { Kinds, kindOf } from '#xnjs/vm/tiers/kinds.js';
import { MemoryWishes, type MemoryWishesOptions } from '#xnjs/vm/tiers/memory-wishes.js';
import { WarmConfig } from '#xnjs/vm/tiers/config.js';
import { fingerprintOf, type Template } from '#xnjs/vm/tiers/template.js';
import { ShiftedClock } from '../../targetsystem/shifted-clock.js';
import { anImageMetadata, aTargetSystem, plainHost } from './samples.js';

/** A host as far as it is asked here. @param described what its hypervisor says of itself; absent: it is away */
function aHost(name: string, described: string | undefined, pool?: string): Host {
  const hypervisor = {
    available: () => (described === undefined ? [] : ['qemu']),
    describe: () => Promise.resolve(described),
    onAvailable: () => () => undefined,
  } as unknown as Hypervisor; // the calls that are made are above
  const storage = pool !== undefined && { storage: { status: { pool } } as unknown as HostStorage };
  return { name, hypervisor, ...plainHost, ...storage };
}

async function known(...all: Host[]): Promise<Kinds> {
  const hosts = new Hosts({ hosts: all, log });
  const kinds = new Kinds(hosts);
  for (const seat of hosts.seats()) await kinds.learn(seat);
  return kinds;
}

/** Taken on `north` when it was of kind `a`. */
function aTemplate(place?: string): Template {
  const metadata = anImageMetadata({ format: 'kernel' });
  const image = { id: 'i', metadata, parts: {} };
  const { id, ownerDn, tags, parameters } = aTargetSystem();
  const machine = { id, image, parameters, driver: 'qemu', host: 'north' } as const;
  const about = { ownerDn, tags, createdMs: 0, kind: kindOf('a') };
  return {
    ...machine,
    ...about,
    fingerprint: fingerprintOf(machine, 'a'),
    ...(place && { place }),
  };
}
const on = (host: string) => ({ host, driver: 'qemu' }) as const;

it('saved memory in shared files is for hosts that are like the one it was taken on', async () => {
  const kinds = await known(aHost('local', 'a'), aHost('north', 'a'), aHost('east', 'b'));
  const fits = (host: string): boolean => kinds.fits(aTemplate(), on(host));
  assert.deepEqual(['local', 'north', 'east', 'none'].map(fits), [true, true, false, false]);
});

it('saved memory in a pool is for its host only, and not once that has another pool or none', async () => {
  const template = aTemplate('north p');
  for (const [north, expected] of [
    [aHost('north', 'a', 'p'), true],
    [aHost('north', 'b', 'p'), false],
    [aHost('north', 'a', 'q'), false],
    [aHost('north', 'a'), false],
  ] as const) {
    const kinds = await known(aHost('local', 'a'), north);
    assert.deepEqual(
      [kinds.fits(template, on('north')), kinds.fits(template, on('local'))],
      [expected, false],
    );
  }
});

it('saved memory is outdated when all who get at it have said that they are others, and no sooner', async () => {
  for (const [local, north, expected] of [
    ['b', 'b', true],
    ['a', 'b', false],
    ['b', undefined, false],
  ] as const) {
    const kinds = await known(aHost('local', local), aHost('north', north));
    assert.equal(kinds.isOutdated(aTemplate()), expected, `${local} ${north}`);
  }
  const none = await known(aHost('local', 'b'));
  assert.equal(none.isOutdated(aTemplate('north p')), false, 'its host is not configured');
});

it('memory that was wished for before its host had said what it is is saved when it has', async () => {
  const host = aHost('local', 'a');
  const hosts = new Hosts({ hosts: [host], log });
  const kinds = new Kinds(hosts);
  const wishes = new MemoryWishes({
    ...{
      hosts,
      kinds,
      log,
      clock: new ShiftedClock(),
      images: { search: () => Promise.resolve([]) },
    },
    flavours: new Flavours({ flavours: {} }, { cpus: 2, memoryMiB: 1_024 }),
    warm: { config: WarmConfig.parse({ maxImages: 1 }) },
  } as unknown as MemoryWishesOptions); // what is not there is not asked for these
  const template = { ...aTemplate(), host: 'local' };
  wishes.add(template);
  wishes.add(template);
  assert.deepEqual(wishes.on('local'), [], 'it does not answer');
  await kinds.learn(on('local'));
  const found = wishes.on('local').map(({ image, kind }) => [image.id, kind]);
  assert.deepEqual(found, [['i', kindOf('a')]]);
});
