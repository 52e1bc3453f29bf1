import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { silentLog } from '#kernel/log.js';
import type { TargetEvent } from '#xnjs/target.js';
import type { VmEvent } from '#xnjs/vm/state.js';
import { SystemRecords } from '#xnjs/vm/system-records.js';
import type { TargetStore } from '#xnjs/vm/target-store.js';
import { ShiftedClock } from '../../targetsystem/shifted-clock.js';
import { aTargetSystem } from './samples.js';

const evidence = { source: 'agent', fact: 'the test says so', atMs: 7 } as const;
const up: VmEvent = { type: 'agentUp', evidence, boot: { readyMs: 12 } };

describe('what is told of target systems', () => {
  it('tells starts from machines that are heard again', async () => {
    const records = new SystemRecords({
      store: { save: () => Promise.resolve() } as unknown as TargetStore, // all that is called
      ...{ clock: new ShiftedClock(), log: silentLog, stopping: new AbortController().signal },
      reconcile: () => Promise.resolve(),
      onAdopt: () => Promise.resolve(),
      onRemoved: () => undefined,
    });
    const told: TargetEvent[] = [];
    records.subscribe((event) => told.push(event));
    const { id } = aTargetSystem();
    records.show(aTargetSystem({ recovery: 'restart' }));
    const lost: VmEvent = { type: 'agentDown', evidence: { ...evidence, fact: 'it is silent' } };
    for (const event of [up, lost, up, { type: 'stopped', evidence }, up] as const)
      await records.apply(id, event);
    const ready = { type: 'ready', targetId: id } as const;
    assert.deepEqual(told, [
      { ...ready, isStart: true },
      ready,
      { type: 'replaced', targetId: id },
      { ...ready, isStart: true },
    ]);
  });
});
