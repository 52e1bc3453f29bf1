import assert from 'node:assert/strict';
import { it } from 'node:test';
import { silentLog as log } from '#kernel/log.js';
import type { Host } from '#xnjs/vm/hosts/host.js';
import { Hosts } from '#xnjs/vm/hosts/hosts.js';
import { Kinds } from '#xnjs/vm/tiers/kinds.js';
import { aHost, aTemplate, on } from './saved-memory.js';

async function known(...all: Host[]): Promise<Kinds> {
  const hosts = new Hosts({ hosts: all, log });
  const kinds = new Kinds(hosts);
  for (const seat of hosts.seats()) await kinds.learn(seat);
  return kinds;
}

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
