import assert from 'node:assert/strict';
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { describe, it } from 'node:test';
import { Scope } from '#kernel/scope.js';
import type { DomainView } from '#xnjs/vm/hypervisor.js';
import { Parking, type ParkingOptions } from '#xnjs/vm/parking.js';
import type { VmEvent } from '#xnjs/vm/state.js';
import { ShiftedClock } from '../../targetsystem/shifted-clock.js';
import { scratch } from '../job/rig.js';
import { aTargetSystem } from './samples.js';

const saved: Pick<DomainView, 'state' | 'isSaved'> = { state: 'stopped', isSaved: true };

/** A machine that is parked, by a fake hypervisor with one domain, or none. */
function aParkedMachine(memory: string) {
  const told: VmEvent[] = [];
  const applyNow = (_id: string, event: VmEvent): Promise<void> => {
    told.push(event);
    return Promise.resolve();
  };
  const clock = new ShiftedClock();
  const host = { domain: saved as typeof saved | undefined };
  const parking = new Parking({
    hosts: { of: () => ({ find: () => Promise.resolve(host.domain) }) },
    workspace: { parkedMemory: () => memory },
    records: { applyNow },
    unbind: () => Promise.resolve(),
    reconcile: () => Promise.resolve(),
    clock,
  } as unknown as ParkingOptions); // the calls that are made are above
  return { parking, host, told, clock };
}

describe('a machine that is parked', () => {
  it('stays so while it can be brought back', async () => {
    const { parking, told, clock } = aParkedMachine('');
    for (let look = 0; look < 3; look++) {
      await parking.leave(aTargetSystem({ state: 'SUSPENDED' }));
      clock.advance(30_000);
    }
    assert.deepEqual(told, []);
  });

  it('is gone when its domain, or what libvirt saved of it, was taken away: seen twice', async () => {
    for (const domain of [undefined, { ...saved, isSaved: false }]) {
      const { parking, host, told, clock } = aParkedMachine('');
      host.domain = domain;
      await parking.leave(aTargetSystem({ state: 'SUSPENDED' }));
      assert.equal(told.length, 0, 'once is no proof');
      clock.advance(30_000);
      await parking.leave(aTargetSystem({ state: 'SUSPENDED' }));
      const [event, ...more] = told;
      assert.ok(event?.type === 'stopped' && more.length === 0);
      assert.equal(event.evidence.fact, 'its saved memory was taken away by somebody else');
    }
  });

  it('is there again when it was only away for a look', async () => {
    const { parking, host, told, clock } = aParkedMachine('');
    const look = async (domain: typeof host.domain): Promise<void> => {
      host.domain = domain;
      clock.advance(30_000);
      await parking.leave(aTargetSystem({ state: 'SUSPENDED' }));
    };
    for (const domain of [undefined, saved, undefined, saved]) await look(domain);
    assert.deepEqual(told, []);
  });

  it('in a file is gone with that, and not where nothing of its file system is there', async () => {
    await using scope = new Scope();
    const memory = join(scratch(scope), 'machine', 'parked.save');
    const { parking, told, clock } = aParkedMachine(memory);
    const look = async (): Promise<void> => {
      clock.advance(30_000);
      await parking.leave(aTargetSystem({ state: 'SUSPENDED', parkedOn: 'h' }));
    };
    mkdirSync(dirname(memory));
    writeFileSync(memory, 'LibvirtQemudSave and so on');
    await look();
    rmSync(dirname(memory), { recursive: true });
    for (let n = 0; n < 3; n++) await look();
    assert.deepEqual(told, []);
    mkdirSync(dirname(memory));
    for (let n = 0; n < 2; n++) await look();
    assert.deepEqual(
      told.map(({ type }) => type),
      ['stopped'],
    );
  });
});
