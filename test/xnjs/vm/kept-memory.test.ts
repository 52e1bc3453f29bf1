import assert from 'node:assert/strict';
import { it } from 'node:test';
import { silentLog as log } from '#kernel/log.js';
import type { Host } from '#xnjs/vm/hosts/host.js';
import { Hosts } from '#xnjs/vm/hosts/hosts.js';
import { WarmConfig } from '#xnjs/vm/tiers/config.js';
import { KeptMemory, type KeptMemoryOptions } from '#xnjs/vm/tiers/kept-memory.js';
import { Kinds } from '#xnjs/vm/tiers/kinds.js';
import { ShiftedClock } from '../../targetsystem/shifted-clock.js';
import { aHost, aTemplate } from './saved-memory.js';

async function keptOn(...all: Host[]): Promise<KeptMemory> {
  const hosts = new Hosts({ hosts: all, log });
  const kinds = new Kinds(hosts);
  for (const seat of hosts.seats()) await kinds.learn(seat);
  const store = { save: () => Promise.resolve() };
  const given = {
    ...{ hosts, kinds, log, clock: new ShiftedClock(), workspace: {} },
    warm: { config: WarmConfig.parse({ maxImages: 1 }), store },
  };
  // what is not there is not asked for these
  return new KeptMemory(given as unknown as KeptMemoryOptions);
}
const saved = { ...aTemplate(), host: 'local', patches: [], bootId: 'b' };
const mapped = { ...saved, mapped: { sizeBytes: 0, patches: [] } };

it('mapped memory is taken anew as soon as another host shares its files', async () => {
  for (const [north, expected] of [
    [[], false],
    [[aHost('north', 'a', 'pool')], false],
    [[aHost('north', 'a')], true],
    [[aHost('north', undefined)], true],
  ] as const) {
    const kept = await keptOn(aHost('local', 'a'), ...north);
    assert.deepEqual([kept.isOver(mapped), kept.isOver(saved)], [expected, false]);
  }
});

it('saved memory does not go for what may come to nothing', async () => {
  const kept = await keptOn(aHost('local', 'a'), aHost('north', 'a'));
  await kept.save(saved);
  const next = { ...aTemplate(), id: 'next', createdMs: 1 };
  await kept.save(next);
  assert.deepEqual([...kept.surplus('local', new Map())], []);
  await kept.save({ ...next, patches: [], bootId: 'b' });
  assert.deepEqual([...kept.surplus('local', new Map())], [saved.id]);
});
