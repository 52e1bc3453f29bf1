import assert from 'node:assert/strict';
import { existsSync, mkdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { describe, it } from 'node:test';
import { GridError } from '#kernel/errors.js';
import { Scope } from '#kernel/scope.js';
import { without } from '#xnjs/job/without.js';
import type { DomainView } from '#xnjs/vm/hypervisor.js';
import { fingerprint, Parking, type ParkingOptions } from '#xnjs/vm/parking.js';
import type { VmEvent } from '#xnjs/vm/state.js';
import type { TargetSystem } from '#xnjs/vm/target-system.js';
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

/** A machine that is parked in a file, on a fake host; its server dies at one of the steps on the way back. */
class Return {
  readonly memory: string;
  /** What runs could have changed its disk. */
  hasRun = false;
  domain: DomainView['state'] | undefined;
  record: TargetSystem = aTargetSystem({ state: 'UNREACHABLE', parkedOn: 'h' });
  readonly told: string[] = [];
  /** Another server acts. */
  isFenced = false;
  /** By libvirt. */
  isSaved = false;
  readonly #hasOthers: boolean;
  #left = Infinity;

  constructor(directory: string, hasOthers = true) {
    this.#hasOthers = hasOthers;
    this.memory = join(directory, 'parked.save');
    mkdirSync(directory, { recursive: true });
    writeFileSync(this.memory, 'LibvirtQemudSave and so on');
  }

  get isWhole(): boolean {
    return existsSync(this.memory);
  }

  unmount(): void {
    renameSync(dirname(this.memory), `${dirname(this.memory)}.away`);
  }

  mount(): void {
    renameSync(`${dirname(this.memory)}.away`, dirname(this.memory));
  }

  /** @param steps those that are done until it dies; absent: all. @returns whether it came to its end */
  async goOn(work: (parking: Parking) => Promise<void>, steps = Infinity): Promise<boolean> {
    this.#left = steps;
    return await work(this.#parking()).then(
      () => true,
      () => false,
    );
  }

  #step(done: () => void): Promise<void> {
    if (this.#left-- <= 0) return Promise.reject(new TypeError('killed'));
    done();
    return Promise.resolve();
  }

  #write(done: () => void): Promise<void> {
    const another = new GridError('SITE_UNAVAILABLE', 'another server acts');
    return this.isFenced ? Promise.reject(another) : this.#step(done);
  }

  #parking(): Parking {
    const hypervisor = {
      find: () => Promise.resolve(this.domain && { state: this.domain, isSaved: this.isSaved }),
      describe: () => Promise.resolve('h'),
      restoreMemory: () => this.#step(() => (this.domain = 'paused')),
      resume: () =>
        this.#step(() => {
          assert.ok(!this.isWhole, 'what it does from now on would be undone by its file');
          if (this.domain) [this.domain, this.hasRun] = ['running', true];
        }),
      saveMemory: () =>
        this.#step(() => {
          assert.ok(!this.isWhole, 'nobody could tell it from one of an earlier time');
          writeFileSync(this.memory, 'LibvirtQemudSave and so on');
          [this.domain, this.hasRun] = [undefined, false];
        }),
      remove: () => this.#step(() => (this.domain = undefined)),
    };
    return new Parking({
      hosts: { of: () => hypervisor, parksInFiles: () => this.#hasOthers },
      workspace: { parkedMemory: () => this.memory },
      records: {
        save: (record: TargetSystem) => this.#write(() => (this.record = record)),
        applyNow: (_: string, { type }: VmEvent) => this.#write(() => void this.told.push(type)),
      },
      ...{ plugIn: () => this.#step(() => undefined), unplug: () => this.#step(() => undefined) },
      ...{ unbind: () => Promise.resolve(), reconcile: () => Promise.resolve() },
      require: () => Promise.resolve(), // it has looked a moment ago
      clock: new ShiftedClock(),
    } as unknown as ParkingOptions); // the calls that are made are above
  }
}

describe('the file of a machine that goes on', () => {
  it('is gone before that runs, wherever its server and its host die on the way', async () => {
    for (let steps = 0; ; steps++) {
      await using scope = new Scope();
      const machine = new Return(scratch(scope));
      const isOver = await machine.goOn((parking) => parking.bringBack(machine.record), steps);
      assert.ok(!machine.hasRun || !machine.isWhole, `after ${steps} steps`);
      const { hasRun, record } = machine;
      if (isOver) {
        assert.deepEqual([hasRun, record.parkedOn, machine.told], [true, undefined, ['domain']]);
        return;
      }
      machine.domain = undefined;
      // what has gone on is known by no file any more, and what has not is brought back
      if (record.parkedOn === undefined) continue;
      await machine.goOn((parking) => parking.bringBack(record));
      const [last] = machine.told.slice(-1);
      if (hasRun) assert.equal(last, 'stopped', `after ${steps} steps`);
      else if (last !== 'stopped') assert.ok(machine.hasRun, `after ${steps} steps`);
    }
  });

  it('is not touched by a server that another has taken over from', async () => {
    await using scope = new Scope();
    const machine = new Return(scratch(scope));
    // as it was when this one looked; what is there by now another has saved
    machine.domain = 'running';
    machine.isFenced = true;
    assert.equal(await machine.goOn((parking) => parking.park(machine.record)), false);
    assert.ok(machine.isWhole);
  });

  it('is waited for where nothing of its file system is there', async () => {
    await using scope = new Scope();
    const machine = new Return(join(scratch(scope), 'mounted'));
    const { record } = machine;
    machine.unmount();
    const parked = { ...record, state: 'PAUSED', desired: 'suspended' } as const;
    assert.equal(await machine.goOn((parking) => parking.bringBack(record)), false);
    assert.equal(await machine.goOn((parking) => parking.park(parked)), false);
    assert.deepEqual(machine.told, []);
    machine.mount();
    assert.ok(await machine.goOn((parking) => parking.park(parked)));
    assert.deepEqual(machine.told, ['frozen']);
  });

  it('is believed though the site has one host by now, and what libvirt saved though it has several', async () => {
    await using scope = new Scope();
    const alone = new Return(scratch(scope), false);
    assert.ok(await alone.goOn((parking) => parking.park(alone.record)));
    assert.deepEqual([alone.told, alone.isWhole], [['frozen'], true]);
    const several = new Return(scratch(scope));
    rmSync(several.memory);
    several.record = without(several.record, 'parkedOn');
    several.domain = 'stopped';
    several.isSaved = true;
    assert.ok(await several.goOn((parking) => parking.park(several.record)));
    assert.deepEqual([several.told, several.isWhole], [['frozen'], true]);
    assert.equal(several.record.parkedOn, fingerprint('h'));
  });

  it('is removed before it is saved anew, where it was to be parked again before it went on', async () => {
    for (let steps = 0; ; steps++) {
      await using scope = new Scope();
      const machine = new Return(scratch(scope));
      // restored, and its server has died
      await machine.goOn((parking) => parking.bringBack(machine.record), 2);
      assert.equal(machine.domain, 'paused');
      const park = (parking: Parking): Promise<void> => parking.park(machine.record);
      if (await machine.goOn(park, steps)) {
        assert.deepEqual([machine.told, machine.isWhole], [['frozen'], true]);
        return;
      }
      await machine.goOn(park);
      assert.deepEqual([machine.told.at(-1), machine.isWhole], ['frozen', true]);
    }
  });
});
