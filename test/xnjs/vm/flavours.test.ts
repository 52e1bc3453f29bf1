import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { describeIssues } from '#kernel/config.js';
import { XnjsConfig } from '#xnjs/config.js';
import { costOf } from '#xnjs/vm/placement/cost.js';
import { expectedWaits } from '#xnjs/vm/placement/starts.js';

describe('the configuration of flavours and quotas', () => {
  const { targetSystems } = XnjsConfig.shape;
  const flavours = (flavour: object) => ({ flavours: { x: flavour } });
  const refused: readonly (readonly [string, object, RegExp])[] = [
    [
      'more than the site allows',
      flavours({ cpus: 9 }),
      /^flavours\.x\.cpus: 9 is above 8, the limit/,
    ],
    [
      'more for some than the site allows',
      flavours({ memoryMiB: 1_024, limits: [{ roles: ['admin'], memoryMiB: 20_000 }] }),
      /^flavours\.x\.memoryMiB: 20000 is above 16384/,
    ],
    ['a default that is none', { defaultFlavour: 'y' }, /^defaultFlavour: there is no flavour y/],
    [
      'a default outside its range',
      flavours({ cpus: { default: 4, max: 2 } }),
      /min <= default <= max/,
    ],
    ['what no machine has', flavours({ gpus: 1 }), /gpus/],
    ['a quota of nobody', { quota: { users: { Bob: { cpus: 1 } } } }, /^quota\.users: Bob: /],
  ];
  for (const [what, config, text] of refused)
    it(`refuses ${what}`, () => {
      const { error } = targetSystems.safeParse(config);
      assert.match(error ? describeIssues(error) : 'was accepted', text);
    });
});

describe('the cost of a target system', () => {
  const amounts = { targetSystems: 1, cpus: 2, memoryMiB: 1_536, diskMiB: 10_240 };
  it('is what it has, for as long as it is there', () => {
    const prices = { currency: 'EUR', coreHour: 0.01, memoryGiBHour: 0.002, diskGiBHour: 0.0001 };
    const { total, perHour } = costOf(amounts, 24, prices);
    assert.deepEqual(perHour, {
      coreHours: 2,
      memoryGiBHours: 1.5,
      diskGiBHours: 10,
      price: 0.024,
    });
    assert.deepEqual(total, {
      ...{ hours: 24, coreHours: 48, memoryGiBHours: 36, diskGiBHours: 240, price: 0.576 },
    });
  });
  it('has no sum without an end, and no price without prices', () => {
    assert.deepEqual(costOf(amounts), {
      perHour: { coreHours: 2, memoryGiBHours: 1.5, diskGiBHours: 10 },
    });
  });
});

describe('the expected wait for a target system', () => {
  it('is that of half and of nine tenths of the starts, each tier for itself', () => {
    const cold = Array.from({ length: 10 }, (_, at) => ({
      tier: 'cold' as const,
      durationMs: (10 - at) * 100,
    }));
    assert.deepEqual(expectedWaits([...cold, { tier: 'spare', durationMs: 5 }]), [
      { tier: 'spare', p50Ms: 5, p90Ms: 5, starts: 1 },
      { tier: 'cold', p50Ms: 500, p90Ms: 900, starts: 10 },
    ]);
    assert.deepEqual(expectedWaits([]), []);
  });
});
