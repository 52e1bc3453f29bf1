import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { silentLog } from '#kernel/log.js';
import { createSerial } from '#kernel/persistence/serial.js';
import { oneHost } from '#xnjs/vm/hosts/hosts.js';
import type { Hypervisor } from '#xnjs/vm/hypervisor.js';
import { step, type VmEvent } from '#xnjs/vm/state.js';
import { Stops, type StopsOptions } from '#xnjs/vm/stops.js';
import type { TargetSystem } from '#xnjs/vm/target-system.js';
import type { DomainWord } from '#xnjs/vm/views.js';
import { ShiftedClock } from '../../targetsystem/shifted-clock.js';
import { until } from '../job/rig.js';
import { aSnapshot, aTargetSystem } from './samples.js';

/** A fake without machines: each that is asked for has stopped. */
const emptyHost = {
  available: () => ['qemu'],
  onDomain: () => () => undefined,
  onAvailable: () => () => undefined,
  find: () => Promise.resolve(undefined),
} as unknown as Hypervisor; // the calls that are made are above

const bootTimeoutMs = 120_000;

/** One target system, whose record is all that there is. */
function theRecord(system: TargetSystem) {
  const clock = new ShiftedClock();
  const target = {
    system,
    clock,
    hears: (event: VmEvent): void => {
      target.system = step(target.system, event);
    },
    says: (says: DomainWord): void =>
      target.hears({
        type: 'domain',
        says,
        evidence: { source: 'hypervisor', fact: says, atMs: 1 },
      }),
  };
  const records = {
    find: () => target.system,
    queue: createSerial(),
    applyNow: (_id: string, event: VmEvent) => {
      target.hears(event);
      return Promise.resolve();
    },
    schedule: () => undefined,
  } as unknown as StopsOptions['records']; // the calls that are made are above
  const stopping = new AbortController();
  const stops = new Stops({
    systems: { hosts: oneHost(emptyHost, silentLog), clock, bootTimeoutMs },
    records,
    agents: { isCurrent: () => true },
    files: { consoleTail: () => Promise.resolve('Kernel panic') },
    stopping: stopping.signal,
  });
  return { target, stops, end: () => stopping.abort() };
}

describe('a machine that has stopped', () => {
  it('is restored from its last snapshot, however many say that it has stopped', async () => {
    const evidence = { source: 'agent', fact: 'its agent answers', atMs: 60 } as const;
    const snapshots = [aSnapshot({ id: 'older', atMs: 20 }), aSnapshot({ id: 'last', atMs: 50 })];
    const starting = aTargetSystem({ recovery: 'restore', snapshots });
    const { target, stops } = theRecord(step(starting, { type: 'agentUp', evidence, boot: {} }));
    const { id } = target.system;
    await Promise.all(['an event', 'a look'].map((who) => stops.onStopped(id, `${who} says so`)));
    assert.deepEqual(target.system.undertaking, { do: 'revert', snapshotId: 'last' });
    assert.deepEqual(target.system.snapshots, snapshots);
  });
});

describe('a machine whose agent does not answer', { timeout: 30_000 }, () => {
  const passes = async (clock: ShiftedClock, seconds: number): Promise<void> => {
    for (let second = 0; second < seconds; second++) {
      clock.advance(1_000);
      await new Promise(setImmediate);
    }
  };

  it('has FAILED after its time, with the end of its console', async () => {
    const { target, stops } = theRecord(aTargetSystem());
    const over = stops.afterBootTimeout(target.system);
    await passes(target.clock, 200);
    await over;
    assert.equal(target.system.state, 'FAILED');
    assert.match(target.system.evidence.fact, /no agent answered within 120 s .*Kernel panic/);
  });

  for (const says of ['silent', 'hung', 'paused', 'stalled'] as const)
    it(`has not FAILED while its hypervisor is ${says}; its time goes on when it runs`, async () => {
      const { target, stops, end } = theRecord(aTargetSystem());
      const over = stops.afterBootTimeout(target.system);
      await passes(target.clock, 10);
      target.says(says);
      await passes(target.clock, 500);
      target.says('running');
      await passes(target.clock, 10);
      assert.equal(target.system.state, 'INITIALIZING');
      await passes(target.clock, 200);
      await until('it has FAILED', () => target.system.state === 'FAILED');
      end();
      await over;
    });
});
