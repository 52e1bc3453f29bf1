import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { silentLog } from '#kernel/log.js';
import { createSerial } from '#kernel/persistence/serial.js';
import { oneHost } from '#xnjs/vm/hosts/hosts.js';
import type { Hypervisor } from '#xnjs/vm/hypervisor.js';
import { step, type VmEvent } from '#xnjs/vm/state.js';
import { Stops, type StopsOptions } from '#xnjs/vm/stops.js';
import { ShiftedClock } from '../../targetsystem/shifted-clock.js';
import { aSnapshot, aTargetSystem } from './samples.js';

/** A fake without machines: each that is asked for has stopped. */
const emptyHost = {
  available: () => ['qemu'],
  onDomain: () => () => undefined,
  onAvailable: () => () => undefined,
  find: () => Promise.resolve(undefined),
} as unknown as Hypervisor; // the calls that are made are above

describe('a machine that has stopped', () => {
  it('is restored from its last snapshot, however many say that it has stopped', async () => {
    const clock = new ShiftedClock();
    const evidence = { source: 'agent', fact: 'its agent answers', atMs: 60 } as const;
    const snapshots = [aSnapshot({ id: 'older', atMs: 20 }), aSnapshot({ id: 'last', atMs: 50 })];
    const starting = aTargetSystem({ recovery: 'restore', snapshots });
    let record = step(starting, { type: 'agentUp', evidence, boot: {} });
    const queue = createSerial();
    const records = {
      find: () => record,
      queue,
      applyNow: (_id: string, event: VmEvent) =>
        Promise.resolve(void (record = step(record, event))),
      schedule: () => undefined,
    } as unknown as StopsOptions['records']; // the calls that are made are above
    const stops = new Stops({
      systems: { hosts: oneHost(emptyHost, silentLog), clock, bootTimeoutMs: 1_000 },
      records,
      agents: { isCurrent: () => true },
      files: { consoleTail: () => Promise.resolve('') },
      stopping: new AbortController().signal,
    });
    const { id } = record;
    await Promise.all(['an event', 'a look'].map((who) => stops.onStopped(id, `${who} says so`)));
    assert.deepEqual(record.undertaking, { do: 'revert', snapshotId: 'last' });
    assert.deepEqual(record.snapshots, snapshots);
  });
});
