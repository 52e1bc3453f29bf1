import assert from 'node:assert/strict';
import { it } from 'node:test';
import { silentLog as log } from '#kernel/log.js';
import type { Host } from '#xnjs/vm/hosts/host.js';
import { Hosts } from '#xnjs/vm/hosts/hosts.js';
import { Flavours } from '#xnjs/vm/placement/flavours.js';
import { WarmConfig } from '#xnjs/vm/tiers/config.js';
import { Kinds, kindOf } from '#xnjs/vm/tiers/kinds.js';
import { MemoryWishes, type MemoryWishesOptions } from '#xnjs/vm/tiers/memory-wishes.js';
import type { Template } from '#xnjs/vm/tiers/template.js';
import { ShiftedClock } from '../../targetsystem/shifted-clock.js';
import { anImageMetadata } from './samples.js';
import { aHost, aTemplate, on } from './saved-memory.js';

/** @param kept records of what is saved, or about to be */
function wishesOn(all: Host[], kept: Template[] = []): { wishes: MemoryWishes; kinds: Kinds } {
  const hosts = new Hosts({ hosts: all, log });
  const kinds = new Kinds(hosts);
  const given = {
    ...{ hosts, kinds, log, clock: new ShiftedClock() },
    images: { search: () => Promise.resolve([]) },
    kept: { all: () => kept, isBad: () => false },
    flavours: new Flavours({ flavours: {} }, { cpus: 2, memoryMiB: 1_024 }),
    warm: { config: WarmConfig.parse({ maxImages: 1 }) },
  };
  // what is not there is not asked for these
  return { kinds, wishes: new MemoryWishes(given as unknown as MemoryWishesOptions) };
}

it('memory that was wished for before its host had said what it is is saved when it has', async () => {
  const { wishes, kinds } = wishesOn([aHost('local', 'a')]);
  const template = { ...aTemplate(), host: 'local' };
  wishes.add(template);
  wishes.add(template);
  assert.deepEqual(wishes.on('local'), [], 'it does not answer');
  await kinds.learn(on('local'));
  const found = wishes.on('local').map(({ image, kind }) => [image.id, kind]);
  assert.deepEqual(found, [['i', kindOf('a')]]);
});

it('memory of machines that plain users cannot have is not saved, and holds up no other', async () => {
  const { wishes, kinds } = wishesOn([aHost('local', 'a')]);
  await kinds.learn(on('local'));
  const wanted = { ...aTemplate(), host: 'local' };
  const large = { cpus: { min: 1, default: 1, max: 4 }, memoryMiB: { min: 2_048, default: 2_048, max: 4_096 } }; // prettier-ignore
  const connected = { ...anImageMetadata().requirements, network: 'nat' };
  for (const requirements of [large, connected]) {
    const metadata = anImageMetadata({ format: 'kernel', requirements });
    wishes.add({ ...wanted, image: { ...wanted.image, id: 'other', metadata } });
  }
  wishes.add(wanted);
  assert.deepEqual(
    wishes.on('local').map(({ image }) => image.id),
    ['i'],
  );
});

it('memory that a host is about to save keeps others from it only while that host is there', async () => {
  for (const [described, expected] of [
    ['a', 'x'],
    [undefined, undefined],
  ] as const) {
    const begun = { ...aTemplate(), id: 'x' };
    const { wishes, kinds } = wishesOn([aHost('local', 'a'), aHost('north', described)], [begun]);
    await kinds.learn(on('local'));
    wishes.add({ ...aTemplate(), host: 'local' });
    const [wish] = wishes.on('local');
    assert.equal(wish && wishes.find(wish)?.id, expected);
  }
});
