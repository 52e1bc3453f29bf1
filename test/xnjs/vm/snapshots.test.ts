import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { amountsOf } from '#xnjs/vm/placement/quota.js';
import { step, type VmEvent } from '#xnjs/vm/state.js';
import type { TargetSystem } from '#xnjs/vm/target-system.js';
import { withoutSettled } from '#xnjs/vm/settled.js';
import { aSnapshot, aTargetSystem } from './samples.js';

const evidence = { source: 'server', fact: 'the test says so', atMs: 70 } as const;
const snapshot = aSnapshot();
const up: VmEvent = { type: 'agentUp', evidence, boot: {} };
const stopped: VmEvent = { type: 'stopped', evidence };
const ready = (changes: Partial<TargetSystem> = {}): TargetSystem =>
  step(aTargetSystem(changes), up);
const after = (system: TargetSystem, ...events: readonly VmEvent[]): TargetSystem =>
  events.reduce(step, system);
const taking: VmEvent = { type: 'capture', snapshot: aSnapshot({ state: 'TAKING' }), evidence };
const taken: VmEvent = {
  type: 'resumed',
  snapshot: { state: 'READY', sizeMiB: 250 },
  evidence,
};
const reverting: VmEvent = { type: 'revert', snapshotId: snapshot.id, evidence };
const fenced: VmEvent = { type: 'fenced', evidence };
const resumed: VmEvent = { type: 'resumed', evidence };

describe('a snapshot', () => {
  it('is on record before it is taken; the machine that stood still is told the time, and goes on', () => {
    const going = step(ready(), taking);
    assert.deepEqual([going.state, going.undertaking?.do], ['PAUSED', 'snapshot']);
    for (const type of ['agentDown', 'domain', 'guest'] as const) {
      const news = { type, says: 'paused', evidence } as VmEvent;
      assert.equal(step(going, news), going, `${type} while it is taken`);
    }
    const done = step(going, taken);
    assert.deepEqual(
      [done.state, done.isBehind, done.undertaking, done.snapshots],
      ['UNREACHABLE', true, undefined, [{ ...snapshot, sizeMiB: 250 }]],
    );
    assert.equal(step(done, up).state, 'READY');
  });

  it('counts as disk from its beginning, and one that failed no more', () => {
    const going = step(ready(), taking);
    assert.equal(amountsOf(going).diskMiB, 400);
    assert.equal(amountsOf(step(going, taken)).diskMiB, 250);
    const failed = step(going, stopped);
    assert.deepEqual(
      [failed.state, failed.snapshots?.[0]?.state, amountsOf(failed).diskMiB],
      ['FAILED', 'FAILED', 0],
    );
    assert.match(failed.snapshots?.[0]?.message ?? '', /the test says so/);
  });

  it('that is put back is one of the starts of its machine, unless it is given up or stays parked', () => {
    const at = (event: VmEvent, atMs: number) =>
      ({ ...event, evidence: { ...evidence, atMs } }) as VmEvent; // the same event
    const kept = ready({ snapshots: [snapshot] });
    const laterOf = (system: TargetSystem, ...events: readonly VmEvent[]) =>
      after(system, ...events).starts ?? [];
    const back = [at(reverting, 100), at(fenced, 200), at(resumed, 350), at(up, 500)];
    const [start, ...more] = laterOf(kept, ...back);
    const { what, tier, boot } = start!;
    assert.deepEqual(
      [what, tier, boot, more],
      ['revert', 'saved', { restoredMs: 250, readyMs: 400 }, []],
    );
    assert.deepEqual(laterOf(kept, reverting, resumed, up), [], 'given up');
    assert.deepEqual(laterOf(kept, reverting, stopped), [], 'nothing ran');
    assert.deepEqual(laterOf(ready(), taking, taken, up), [], 'only kept');
    const parked = after(kept, { type: 'freeze', evidence }, { type: 'frozen', evidence });
    assert.deepEqual(laterOf(parked, reverting, fenced, resumed), []);
    const onItsWay = after(kept, { type: 'freeze', evidence }, reverting, fenced, resumed);
    assert.deepEqual([onItsWay.state, onItsWay.starts], ['SUSPENDED', []]);
    const lost = after({ ...kept, recovery: 'restore' }, at(stopped, 9), fenced, resumed, up);
    assert.equal(lost.starts?.[0]?.what, 'restore');
  });

  it('of one that is parked leaves it parked', () => {
    const parked = after(ready(), { type: 'freeze', evidence }, { type: 'frozen', evidence });
    const done = after(parked, taking, taken);
    assert.deepEqual([done.state, done.desired], ['SUSPENDED', 'suspended']);
  });

  it('is waited for by other orders; deletion is not held up', () => {
    const going = step(ready(), taking);
    for (const event of [taking, reverting, { type: 'freeze', evidence }] as const)
      assert.throws(() => step(going, event), { code: 'VM_ILLEGAL_EVENT' });
    assert.equal(step(going, { type: 'destroy', evidence }).state, 'DESTROYING');
  });
});

describe('a target system that is put back to a snapshot', () => {
  it('has another machine when the former is proven gone, and its jobs are to be told before it runs', () => {
    const going = step(ready({ snapshots: [snapshot] }), reverting);
    assert.deepEqual([going.state, going.generation], ['PAUSED', undefined]);
    const gone = step(going, fenced);
    assert.deepEqual(
      [gone.generation, gone.reverted?.step, gone.reverted?.toMs],
      [2, 'tell', snapshot.atMs],
    );
    assert.match(gone.reverted?.reason ?? '', /put back to the snapshot "before" of 1970-01-01T00/);
    assert.equal(step(gone, fenced), gone, 'once');
    const told = withoutSettled(gone, { reverted: gone.reverted! });
    assert.equal(told.reverted?.step, 'tidy');
    const back = step(told, resumed);
    assert.deepEqual(
      [back.state, back.isBehind, back.undertaking],
      ['UNREACHABLE', true, undefined],
    );
    const settled = withoutSettled(back, { reverted: back.reverted! });
    assert.equal(settled.reverted, undefined);
  });

  it('has what was changed since given to it again', () => {
    const parameters = { ...snapshot.parameters, cpuShares: 512 };
    const back = after(
      ready({ snapshots: [snapshot], parameters, unapplied: ['diskIops'] }),
      ...[reverting, fenced, resumed],
    );
    assert.deepEqual(back.unapplied, ['diskIops', 'cpuShares']);
  });

  it('may have FAILED before', () => {
    const failed = step(ready({ snapshots: [snapshot] }), stopped);
    assert.equal(after(failed, reverting, fenced, resumed).state, 'UNREACHABLE');
  });

  it('which had FAILED and cannot be put back stays so, whatever its recovery says', () => {
    for (const recovery of ['none', 'restart', 'restore'] as const) {
      const failed = step(ready({ snapshots: [snapshot] }), stopped);
      assert.equal(failed.state, 'FAILED');
      const going = step({ ...failed, recovery }, reverting);
      for (const refused of [step(going, stopped), after(going, fenced, stopped)]) {
        assert.equal(refused.state, 'FAILED', recovery);
        assert.match(refused.snapshots?.[0]?.message ?? '', /could not be restored/);
        assert.equal(after(refused, reverting, fenced, resumed, up).state, 'READY');
      }
    }
  });

  it('that cannot be goes on as it is, with the same machine', () => {
    const back = after(ready({ snapshots: [snapshot] }), reverting, resumed);
    assert.deepEqual(
      [back.state, back.generation, back.reverted],
      ['UNREACHABLE', undefined, undefined],
    );
  });
});

describe('recovery by restore', () => {
  const restoring = { recovery: 'restore' } as const;

  it('goes to the last snapshot that is complete, after the old machine is gone', () => {
    const older = aSnapshot({ id: 'older', atMs: 20 });
    const broken = aSnapshot({ id: 'broken', atMs: 60, message: 'it could not be restored: x' });
    const failed = aSnapshot({ id: 'failed', atMs: 65, state: 'FAILED' });
    const system = ready({ ...restoring, snapshots: [older, snapshot, broken, failed] });
    const going = step(system, stopped);
    assert.deepEqual(
      [going.state, going.undertaking],
      ['PAUSED', { do: 'revert', snapshotId: snapshot.id }],
    );
    assert.match(going.evidence.fact, /restored from the snapshot "before": the test says so/);
    // what cannot be restored is not tried again by itself
    const next = after(going, fenced, stopped);
    assert.deepEqual(next.undertaking, { do: 'revert', snapshotId: 'older' });
    assert.match(next.snapshots?.[1]?.message ?? '', /could not be restored: the test says so/);
    const cold = after(next, fenced, stopped);
    assert.deepEqual([cold.state, cold.reverted], ['INITIALIZING', undefined]);
    assert.equal(after(cold, up, stopped).state, 'FAILED', 'three times within an hour');
  });

  it('starts cold where there is no snapshot, and says so', () => {
    const cold = step(ready(restoring), stopped);
    assert.deepEqual([cold.state, cold.lostJobs], ['INITIALIZING', evidence.fact]);
    assert.match(cold.evidence.fact, /started again, since there is no snapshot/);
  });

  it('restores one that was restored once more, when nothing was wrong with that', () => {
    const back = after(
      ready({ ...restoring, snapshots: [snapshot] }),
      stopped,
      fenced,
      resumed,
      up,
    );
    assert.equal(step(back, stopped).undertaking?.snapshotId, snapshot.id);
  });
});

describe('what a parked target system counts as', () => {
  it('is its disk, no cores and no memory', () => {
    const system = ready({ parameters: { cpus: 2, memoryMiB: 384, diskMiB: 1_000 } });
    const freeze = { type: 'freeze', evidence } as const;
    const going = step(system, freeze);
    assert.equal(amountsOf(going).cpus, 2, 'until it is proven to be on disk');
    assert.deepEqual(amountsOf(step(going, { type: 'frozen', evidence })), {
      ...{ targetSystems: 1, cpus: 0, memoryMiB: 0, diskMiB: 1_000 },
    });
  });

  it('puts off the life times of its jobs, by all times that it was parked', () => {
    const at = (atMs: number) => ({ ...evidence, atMs });
    const once = after(
      ready(),
      { type: 'freeze', evidence: at(100) },
      { type: 'frozen', evidence: at(150) },
      { type: 'thaw', evidence: at(300) },
      up,
    );
    const twice = after(
      once,
      { type: 'freeze', evidence: at(400) },
      { type: 'thaw', evidence: at(500) },
    );
    const { putOff = [] } = twice;
    assert.deepEqual(putOff, [
      { sinceMs: 100, untilMs: 300 },
      { sinceMs: 400, untilMs: 500 },
    ]);
    // what came up while the first was being settled stays
    assert.deepEqual(withoutSettled(twice, { putOff: once.putOff! }).putOff, [putOff[1]]);
    assert.equal(withoutSettled(twice, { putOff }).putOff, undefined);
  });
});
