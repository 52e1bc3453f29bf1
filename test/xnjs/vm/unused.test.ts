import assert from 'node:assert/strict';
import { once } from 'node:events';
import { PassThrough } from 'node:stream';
import { describe, it } from 'node:test';
import type { TargetSystem } from '#xnjs/vm/target-system.js';
import { Unused, type UnusedOptions } from '#xnjs/vm/unused.js';
import { ShiftedClock } from '../../targetsystem/shifted-clock.js';
import { aTargetSystem } from './samples.js';

const idleMs = 600_000;

/** One target system whose site ends what nobody uses for ten minutes. */
function aSite(action: 'destroy' | 'freeze' = 'destroy') {
  const clock = new ShiftedClock();
  const done: string[] = [];
  const site = {
    system: aTargetSystem({ state: 'READY' }),
    isBusy: false,
    done,
    pass: (ms: number): void => clock.advance(ms),
    is: (changes: Partial<TargetSystem>): void => {
      site.system = { ...site.system, ...changes };
    },
    /** As the reaper does each second. */
    turn: async (): Promise<void> => {
      const { expired, end } = unused.mortals();
      for (const id of [...expired(clock.now())]) await end(id);
    },
  };
  const records: UnusedOptions['records'] = { all: () => [site.system], get: () => site.system };
  const note = (what: string) => (_id: string, fact: string) =>
    Promise.resolve(void done.push(`${what}: ${fact}`));
  const idle = { afterMs: idleMs, action, isBusy: () => Promise.resolve(site.isBusy) };
  const ways = { freeze: note('freeze'), end: note('end') };
  const unused = new Unused({ idle, clock, records, ...ways });
  return { site, unused, id: site.system.id };
}

describe('a target system that nobody uses', () => {
  it('ends when nobody has worked there for as long as the site allows', async () => {
    const { site, unused, id } = aSite();
    await site.turn();
    site.pass(idleMs - 1_000);
    await site.turn();
    unused.used(id);
    site.pass(idleMs - 1_000);
    await site.turn();
    assert.deepEqual(site.done, []);
    site.pass(1_001);
    await site.turn();
    assert.deepEqual(site.done, ['end: nobody has used it for 600 s']);
  });

  it('is used while it has jobs', async () => {
    const { site } = aSite();
    site.isBusy = true;
    await site.turn();
    site.pass(idleMs);
    await site.turn();
    site.isBusy = false;
    site.pass(idleMs - 1_000);
    await site.turn();
    assert.deepEqual(site.done, []);
  });

  it('has its whole time anew after nobody could work there: parked, halted, or out of reach', async () => {
    for (const state of ['SUSPENDED', 'PAUSED', 'UNREACHABLE'] as const) {
      const { site } = aSite();
      await site.turn();
      site.is({ state });
      await site.turn();
      site.pass(6 * idleMs);
      await site.turn();
      site.is({ state: 'READY' });
      await site.turn();
      site.pass(idleMs - 1_000);
      await site.turn();
      assert.deepEqual(site.done, [], state);
      site.pass(1_001);
      await site.turn();
      assert.equal(site.done.length, 1, state);
    }
  });

  it('is used as long as somebody has its console, its screen or a port of it open', async () => {
    const { site, unused, id } = aSite();
    const [one, other] = [new PassThrough(), new PassThrough()];
    for (const connection of [one, other]) unused.usedBy(id, connection);
    const closes = async (connection: PassThrough): Promise<void> => {
      connection.destroy();
      await once(connection, 'close');
    };
    await closes(other);
    site.pass(6 * idleMs);
    await site.turn();
    await closes(one);
    await site.turn();
    assert.deepEqual(site.done, []);
    site.pass(idleMs);
    await site.turn();
    assert.equal(site.done.length, 1);
  });

  it('is parked instead where the site wishes so, and its hypervisor can', async () => {
    const { site } = aSite('freeze');
    await site.turn();
    site.pass(idleMs);
    await site.turn();
    site.is({ driver: 'lxc' });
    await site.turn();
    site.pass(idleMs);
    await site.turn();
    assert.deepEqual(site.done, [
      'freeze: is being parked on disk: nobody has used it for 600 s',
      'end: nobody has used it for 600 s',
    ]);
  });
});
