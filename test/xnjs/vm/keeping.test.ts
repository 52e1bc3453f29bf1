import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { DomainView } from '#xnjs/vm/hypervisor.js';
import { Keeping, type KeepingOptions } from '#xnjs/vm/snapshots/keeping.js';
import { step, VmError, type VmEvent } from '#xnjs/vm/state.js';
import type { TargetSystem } from '#xnjs/vm/target-system.js';
import { ShiftedClock } from '../../targetsystem/shifted-clock.js';
import { away } from './fake-host.js';
import { aSnapshot, aTargetSystem } from './samples.js';

const evidence = { source: 'user', fact: 'the test says so', atMs: 70 } as const;
const full = () => new VmError('STORAGE_FULL', 'no room for it', { vmId: aTargetSystem().id });

/** A machine of which a snapshot is taken, on a fake host. */
class Taking {
  domain: Pick<DomainView, 'state' | 'isSaved'>;
  record: TargetSystem;
  /** That its own process was started from saved memory was ever on record. */
  wasStarted = false;
  hasRoom = true;
  hasRoomForDisk = true;
  /** By orders to let it go. */
  answers = true;
  #hasMemory = false;

  constructor(state: DomainView['state']) {
    this.domain = { state };
    const ready = step(aTargetSystem(), { type: 'agentUp', evidence, boot: {} });
    this.record = step(ready, {
      ...{ type: 'capture', evidence },
      snapshot: aSnapshot({ state: 'TAKING' }),
    });
  }

  /** As a server does that comes after another, too. @returns whether it came to its end */
  async goOn(): Promise<boolean> {
    return await new Keeping(this.#options()).perform(this.record).then(
      () => true,
      () => false,
    );
  }

  #options(): KeepingOptions {
    const done = () => Promise.resolve();
    const store = (record: TargetSystem): Promise<void> => {
      this.record = record;
      this.wasStarted ||= record.undertaking?.isStarted === true;
      return done();
    };
    const hypervisor = {
      find: () => Promise.resolve(this.domain),
      describe: () => Promise.resolve('libvirt'),
      saveMemoryTo: () => {
        this.domain = { state: 'stopped', isSaved: false };
        this.#hasMemory = true;
        return Promise.resolve(true);
      },
      startFromMemory: () => {
        this.domain = { state: 'paused' };
        return done();
      },
      resume: () => {
        if (!this.answers) return Promise.reject(away());
        this.domain = { state: 'running' };
        return done();
      },
    };
    const files = {
      ...{ begin: done, dropDisk: done, memoryOf: () => Promise.resolve('memory') },
      requireRoom: () => (this.hasRoom ? done() : Promise.reject(full())),
      keepDisk: () => (this.hasRoomForDisk ? done() : Promise.reject(full())),
      isSaved: () => Promise.resolve(this.#hasMemory),
      sizeMiB: () => Promise.resolve(300),
      remove: () => {
        this.#hasMemory = false;
        return done();
      },
    };
    return {
      hosts: { of: () => hypervisor, isLost: () => false },
      filesOf: () => files,
      records: {
        find: () => this.record,
        applyNow: (_id: string, event: VmEvent) => store(step(this.record, event)),
        save: store,
      },
      ...{ unbind: done, reconcile: done, measureLast: done, measureAgain: done, plugIn: done },
      ...{ require: done, clock: new ShiftedClock() },
    } as unknown as KeepingOptions; // the calls that are made are above
  }
}

const outcomeOf = ({ record, domain }: Taking) => [
  record.snapshots?.[0]?.state,
  record.undertaking,
  domain.state,
];

describe('a machine of which a snapshot is taken', () => {
  it('goes on as it was where there is no room: one that was halted by somebody else is not let go', async () => {
    for (const state of ['paused', 'running'] as const) {
      const taking = new Taking(state);
      taking.hasRoom = false;
      assert.ok(await taking.goOn());
      assert.deepEqual(outcomeOf(taking), ['FAILED', undefined, state]);
      assert.equal(taking.record.snapshots?.[0]?.message, 'no room for it');
      assert.equal(taking.wasStarted, false, 'nothing was started');
    }
  });

  it('is let go when it was restored, also by a server that came no further, whatever became of the snapshot', async () => {
    for (const hasRoomForDisk of [true, false]) {
      const taking = new Taking('running');
      Object.assign(taking, { hasRoomForDisk, answers: false });
      assert.equal(await taking.goOn(), false);
      assert.equal(taking.domain.state, 'paused');
      taking.answers = true;
      assert.ok(await taking.goOn());
      const expected = hasRoomForDisk ? 'READY' : 'FAILED';
      assert.deepEqual(outcomeOf(taking), [expected, undefined, 'running']);
      assert.equal(taking.wasStarted, true);
    }
  });
});
