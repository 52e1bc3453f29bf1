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
import { away } from './fake-host.js';
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
  const host = { domain: saved as typeof saved | undefined, isUp: true, isLost: false };
  const stored: TargetSystem[] = [];
  const parking = new Parking({
    hosts: {
      of: () => ({
        find: () => (host.isUp ? Promise.resolve(host.domain) : Promise.reject(away())),
      }),
      isLost: () => host.isLost,
    },
    workspace: { parkedMemory: () => memory },
    records: {
      applyNow,
      save: (record: TargetSystem) => Promise.resolve(void stored.push(record)),
    },
    unbind: () => Promise.resolve(),
    reconcile: () => Promise.resolve(),
    clock,
  } as unknown as ParkingOptions); // the calls that are made are above
  return { parking, host, told, stored, clock };
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
    const { parking, host, told, clock } = aParkedMachine(memory);
    host.domain = undefined;
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

  it('in a file that is gone is what its host says, which is waited for', async () => {
    await using scope = new Scope();
    const record = aTargetSystem({ state: 'SUSPENDED', parkedOn: 'h' });
    const cases: [found: typeof saved | undefined, told: string[], parkedOn: boolean[]][] = [
      [{ state: 'running', isSaved: false }, ['thaw'], []],
      [{ state: 'paused', isSaved: false }, ['thaw'], []],
      [saved, [], [false]],
      [{ state: 'stopped', isSaved: false }, ['stopped'], []],
      [undefined, ['stopped'], []],
    ];
    for (const [domain, events, parkedOn] of cases) {
      const { parking, host, told, stored, clock } = aParkedMachine(
        join(scratch(scope), 'parked.save'),
      );
      [host.domain, host.isUp] = [domain, false];
      for (let n = 0; n < 4; n++) {
        await parking.leave(record).catch(() => undefined);
        clock.advance(30_000);
      }
      assert.deepEqual([told, stored], [[], []], 'nothing is known while it is silent');
      host.isUp = true;
      for (let n = 0; n < 2 && told.length + stored.length === 0; n++) {
        await parking.leave(record);
        clock.advance(30_000);
      }
      assert.deepEqual(
        told.map(({ type }) => type),
        events,
      );
      assert.deepEqual(
        stored.map((next) => next.parkedOn !== undefined),
        parkedOn,
      );
    }
  });

  it('in a file that is gone has ended where its host was declared lost', async () => {
    await using scope = new Scope();
    const { parking, host, told, clock } = aParkedMachine(join(scratch(scope), 'parked.save'));
    [host.isUp, host.isLost] = [false, true];
    for (let n = 0; n < 2; n++) {
      await parking.leave(aTargetSystem({ state: 'SUSPENDED', parkedOn: 'h' }));
      clock.advance(30_000);
    }
    assert.deepEqual(
      told.map(({ type }) => type),
      ['stopped'],
    );
  });
});

const another = () => new GridError('SITE_UNAVAILABLE', 'another server acts');

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
  /** At whether another does, a moment ago. */
  hasLooked = false;
  /** At some time, one that runs would have been brought back from its file. */
  wasMistaken = false;
  /** So often its memory was written to that. */
  saves = 0;
  /** By libvirt. */
  isSaved = false;
  /** What becomes of a restore; absent: it is done. */
  onRestore: (() => Promise<void>) | undefined;
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

  get view(): DomainView | undefined {
    return (
      this.domain && { id: this.record.id, state: this.domain, reason: '', isSaved: this.isSaved }
    );
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
    return this.isFenced ? Promise.reject(another()) : this.#step(done);
  }

  #parking(): Parking {
    const hypervisor = {
      find: () => Promise.resolve(this.view),
      describe: () => Promise.resolve('h'),
      restoreMemory: () => this.onRestore?.() ?? this.#step(() => (this.domain = 'paused')),
      resume: () =>
        this.#step(() => {
          assert.ok(!this.isWhole, 'what it does from now on would be undone by its file');
          if (this.domain) [this.domain, this.hasRun] = ['running', true];
        }),
      saveMemory: () =>
        this.#step(() => {
          assert.ok(!this.isWhole, 'nobody could tell it from one of an earlier time');
          writeFileSync(this.memory, 'LibvirtQemudSave and so on');
          this.saves++;
          [this.domain, this.hasRun] = [undefined, false];
        }),
      restore: () =>
        this.#step(() => {
          assert.ok(this.isSaved);
          [this.domain, this.isSaved, this.hasRun] = ['running', false, true];
        }),
      remove: () => this.#step(() => ([this.domain, this.isSaved] = [undefined, false])),
    };
    return new Parking({
      hosts: { of: () => hypervisor, parksInFiles: () => this.#hasOthers },
      workspace: { parkedMemory: () => this.memory },
      records: {
        save: (record: TargetSystem) =>
          this.#write(() => {
            this.record = record;
            this.wasMistaken ||=
              record.parkedOn !== undefined && this.isWhole && this.domain === 'running';
          }),
        applyNow: (_: string, { type }: VmEvent) => this.#write(() => void this.told.push(type)),
      },
      ...{ plugIn: () => this.#step(() => undefined), unplug: () => this.#step(() => undefined) },
      ...{ unbind: () => Promise.resolve(), reconcile: () => Promise.resolve() },
      require: () =>
        this.isFenced && !this.hasLooked ? Promise.reject(another()) : Promise.resolve(),
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
    [machine.isFenced, machine.hasLooked] = [true, true];
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

  it('is kept where it is to be parked again before it went on, wherever its server dies', async () => {
    for (let steps = 0; ; steps++) {
      await using scope = new Scope();
      const machine = new Return(scratch(scope));
      // restored, and its server has died
      machine.domain = 'paused';
      const park = (parking: Parking): Promise<void> => parking.park(machine.record);
      const isOver = await machine.goOn(park, steps);
      assert.ok(machine.isWhole, `after ${steps} steps`);
      if (!isOver) await machine.goOn(park);
      const { told, domain, record, saves } = machine;
      assert.deepEqual(
        [told.at(-1), domain, machine.isWhole, record.parkedOn, saves],
        ['frozen', undefined, true, 'h', 0],
      );
      if (isOver) return;
    }
  });

  it('is saved anew where it was removed for its machine to go on, or somebody else let that go on', async () => {
    for (const domain of ['paused', 'running'] as const)
      for (let steps = 0; ; steps++) {
        await using scope = new Scope();
        const machine = new Return(scratch(scope));
        machine.domain = domain;
        if (domain === 'paused') rmSync(machine.memory);
        const park = (parking: Parking): Promise<void> => parking.park(machine.record);
        const isOver = await machine.goOn(park, steps);
        if (!isOver) await machine.goOn(park);
        const { told, saves } = machine;
        assert.deepEqual([told.at(-1), machine.isWhole, saves], ['frozen', true, 1]);
        if (isOver) break;
      }
  });

  it('is not there, and libvirt has saved its memory: it goes on from that', async () => {
    for (const isWhole of [true, false])
      for (let steps = 0; ; steps++) {
        await using scope = new Scope();
        const machine = new Return(scratch(scope));
        if (!isWhole) writeFileSync(machine.memory, 'LibvirtQemudPart');
        [machine.domain, machine.isSaved] = ['stopped', true];
        const bringBack = (parking: Parking) => parking.bringBack(machine.record, machine.view);
        const isOver = await machine.goOn(bringBack, steps);
        const settle = (parking: Parking) => parking.settle(machine.record);
        const { state = 'stopped' } = machine.view ?? {};
        if (!isOver) await machine.goOn(state === 'stopped' ? bringBack : settle);
        const about = `after ${steps} steps`;
        assert.ok(machine.hasRun, about);
        assert.ok(!machine.told.includes('stopped'), about);
        assert.equal(machine.isSaved, false, 'it would be started from that later');
        if (!isOver) continue;
        assert.deepEqual([machine.told, machine.record.parkedOn], [['domain'], undefined]);
        break;
      }
  });

  it('could not be restored: a server that was taken over from meanwhile removes nothing', async () => {
    for (const isFenced of [true, false]) {
      await using scope = new Scope();
      const machine = new Return(scratch(scope));
      machine.onRestore = () => {
        [machine.domain, machine.isFenced] = [isFenced ? 'running' : 'stopped', isFenced];
        return Promise.reject(new GridError('HYPERVISOR_FAILED', 'it took too long'));
      };
      const isOver = await machine.goOn((parking) => parking.bringBack(machine.record));
      assert.equal(isOver, !isFenced);
      assert.equal(machine.domain, isFenced ? 'running' : undefined);
      assert.deepEqual(machine.told, isFenced ? [] : ['frozen']);
    }
  });

  it('of an earlier time is gone before there is one of this, wherever its server dies', async () => {
    for (let steps = 0; ; steps++) {
      await using scope = new Scope();
      const machine = new Return(scratch(scope));
      machine.record = without(machine.record, 'parkedOn');
      machine.domain = 'running';
      const isOver = await machine.goOn((parking) => parking.park(machine.record), steps);
      assert.equal(machine.wasMistaken, false, `after ${steps} steps`);
      if (!isOver) continue;
      assert.deepEqual([machine.told, machine.isWhole], [['frozen'], true]);
      return;
    }
  });
});
