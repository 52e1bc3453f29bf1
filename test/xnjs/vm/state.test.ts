import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { startsOf } from '#xnjs/vm/later-starts.js';
import { resourceStatusOf } from '#xnjs/vm/resource-status.js';
import { step, type VmEvent, type VmState } from '#xnjs/vm/state.js';
import type { TargetSystem } from '#xnjs/vm/target-system.js';
import type { DomainWord } from '#xnjs/vm/views.js';
import { aSnapshot, aTargetSystem } from './samples.js';

const evidence = { source: 'hypervisor', fact: 'the test says so', atMs: 7 } as const;
const events: Record<VmEvent['type'], VmEvent> = {
  agentUp: { type: 'agentUp', evidence, boot: { readyMs: 12 } },
  agentDown: { type: 'agentDown', evidence },
  domain: { type: 'domain', says: 'paused', evidence },
  guest: { type: 'guest', says: 'troubled', evidence },
  refused: { type: 'refused', evidence },
  stopped: { type: 'stopped', evidence },
  freeze: { type: 'freeze', evidence },
  frozen: { type: 'frozen', evidence },
  thaw: { type: 'thaw', evidence },
  capture: { type: 'capture', snapshot: aSnapshot({ state: 'TAKING' }), evidence },
  revert: { type: 'revert', snapshotId: aSnapshot().id, evidence },
  fenced: { type: 'fenced', evidence },
  resumed: { type: 'resumed', evidence },
  failed: { type: 'failed', evidence },
  destroy: { type: 'destroy', evidence },
  removed: { type: 'removed', evidence },
  hostLost: { type: 'hostLost', evidence, filesLost: false },
};

/** How a machine comes to be in a state. */
const before: Partial<Record<VmState, readonly VmEvent[]>> = {
  READY: [events.agentUp],
  DEGRADED: [events.agentUp, { type: 'domain', says: 'silent', evidence }],
  UNREACHABLE: [events.agentUp, events.agentDown],
  PAUSED: [events.agentUp, events.domain],
  SUSPENDED: [events.agentUp, events.freeze, events.frozen],
};
const inState = (state: VmState): TargetSystem =>
  (before[state] ?? []).reduce(step, aTargetSystem(before[state] ? {} : { state }));

/** State, then what becomes of it by the events in the order above (`-`: illegal). */
const table = `
INITIALIZING READY      INITIALIZING PAUSED     INITIALIZING INITIALIZING FAILED     -         SUSPENDED  INITIALIZING -         -         -           -           FAILED     DESTROYING -          FAILED
READY        READY      UNREACHABLE  PAUSED     DEGRADED     UNREACHABLE  FAILED     PAUSED    SUSPENDED  READY        PAUSED    PAUSED    READY       READY       -          DESTROYING -          FAILED
DEGRADED     DEGRADED   UNREACHABLE  PAUSED     DEGRADED     UNREACHABLE  FAILED     PAUSED    SUSPENDED  DEGRADED     PAUSED    PAUSED    DEGRADED    DEGRADED    -          DESTROYING -          FAILED
UNREACHABLE  READY      UNREACHABLE  PAUSED     UNREACHABLE  UNREACHABLE  FAILED     PAUSED    SUSPENDED  UNREACHABLE  PAUSED    PAUSED    UNREACHABLE UNREACHABLE -          DESTROYING -          FAILED
PAUSED       PAUSED     PAUSED       PAUSED     PAUSED       PAUSED       FAILED     PAUSED    SUSPENDED  PAUSED       PAUSED    PAUSED    PAUSED      PAUSED      -          DESTROYING -          FAILED
SUSPENDED    SUSPENDED  SUSPENDED    SUSPENDED  SUSPENDED    SUSPENDED    FAILED     SUSPENDED SUSPENDED  UNREACHABLE  SUSPENDED SUSPENDED SUSPENDED   SUSPENDED   -          DESTROYING -          FAILED
FAILED       FAILED     FAILED       FAILED     FAILED       FAILED       FAILED     -         FAILED     -            FAILED    PAUSED    FAILED      FAILED      FAILED     DESTROYING -          FAILED
DESTROYING   DESTROYING DESTROYING   DESTROYING DESTROYING   DESTROYING   DESTROYING -         DESTROYING -            -         -         DESTROYING  DESTROYING  DESTROYING DESTROYING DESTROYED  DESTROYING
DESTROYED    -          -            -          -            -            -          -         -          -            -         -         -           -           -          DESTROYED  -           -
`;

/** What the hypervisor says, then what that makes of a machine whose agent never answered, answers, is silent. */
const merged = `
running INITIALIZING READY    UNREACHABLE
paused  PAUSED       PAUSED   PAUSED
stalled DEGRADED     DEGRADED DEGRADED
hung    INITIALIZING DEGRADED UNREACHABLE
silent  INITIALIZING DEGRADED UNREACHABLE
`;

const rowsOf = (text: string) =>
  text
    .trim()
    .split('\n')
    .map((line) => line.split(/\s+/));

describe('the life of a virtual machine', () => {
  for (const [state, ...cells] of rowsOf(table) as [VmState, ...string[]][])
    for (const [index, event] of Object.values(events).entries()) {
      const expected = cells[index]!;
      it(`${state} + ${event.type} -> ${expected}`, () => {
        assert.equal(inState(state).state, state);
        const act = () => step(inState(state), event).state;
        if (expected === '-') assert.throws(act, { code: 'VM_ILLEGAL_EVENT' });
        else assert.equal(act(), expected);
      });
    }

  for (const [says, ...cells] of rowsOf(merged) as [DomainWord, ...VmState[]][])
    for (const [index, agent] of [
      [],
      [events.agentUp],
      [events.agentUp, events.agentDown],
    ].entries())
      it(`hypervisor: ${says}, agent: ${agent.at(-1)?.type ?? 'never'} -> ${cells[index]}, whoever spoke first`, () => {
        const domain: VmEvent = { type: 'domain', says, evidence };
        assert.equal([...agent, domain].reduce(step, aTargetSystem()).state, cells[index]);
        assert.equal([domain, ...agent].reduce(step, aTargetSystem()).state, cells[index]);
      });

  it('names what is wrong, who says so and since when', () => {
    const hung = { source: 'hypervisor', fact: 'its process hangs', atMs: 20 } as const;
    const silent = { source: 'agent', fact: 'no answer', atMs: 30 } as const;
    const degraded = step(inState('READY'), { type: 'domain', says: 'hung', evidence: hung });
    assert.deepEqual([degraded.state, degraded.evidence], ['DEGRADED', hung]);
    const gone = step(degraded, { type: 'agentDown', evidence: silent });
    assert.deepEqual(gone.evidence, { ...silent, fact: 'no answer; its process hangs' });
    assert.equal(gone.views?.hypervisor?.sinceMs, 20);
  });

  it('a guest in trouble is DEGRADED while it answers, and READY when that has passed', () => {
    const full = { source: 'guest', fact: 'its disk is full', atMs: 9 } as const;
    const troubled = step(inState('READY'), { type: 'guest', says: 'troubled', evidence: full });
    assert.deepEqual([troubled.state, troubled.evidence], ['DEGRADED', full]);
    assert.equal(resourceStatusOf(troubled), 'READY');
    const well = step(troubled, {
      type: 'guest',
      says: 'well',
      evidence: { ...full, fact: 'fine' },
    });
    assert.equal(well.state, 'READY');
  });

  it('is no news when a source says again what it has said', () => {
    const paused = inState('PAUSED');
    const again = { ...events.domain, evidence: { ...evidence, atMs: 99 } } as VmEvent;
    assert.equal(step(paused, again), paused);
  });

  const statuses = [
    ['INITIALIZING', 'INITIALIZING'],
    ['READY', 'READY'],
    ['DEGRADED', 'READY'],
    ['UNREACHABLE', 'ERROR'],
    ['PAUSED', 'DISABLED'],
    ['SUSPENDED', 'DISABLED'],
    ['FAILED', 'ERROR'],
    ['DESTROYING', 'SHUTTING_DOWN'],
  ] as const;
  for (const [state, status] of statuses)
    it(`clients of UNICORE see ${status} for ${state}`, () =>
      assert.equal(resourceStatusOf(inState(state)), status));

  it('and ERROR for a machine that was halted by an error, which answers no more', () => {
    const halted = step(inState('READY'), { type: 'domain', says: 'stalled', evidence });
    assert.deepEqual([halted.state, resourceStatusOf(halted)], ['DEGRADED', 'ERROR']);
  });

  it('goes on from a record of an earlier version, which has a state only', () => {
    const old = aTargetSystem({ state: 'READY' });
    const seen = step(old, { type: 'domain', says: 'running', evidence });
    assert.equal(seen.state, 'READY');
    assert.equal(step(seen, events.agentDown).state, 'UNREACHABLE');
  });

  it('keeps the first cause of a failure', () => {
    const failed = step(inState('READY'), events.stopped);
    const later = step(failed, {
      type: 'stopped',
      evidence: { ...evidence, fact: 'something later' },
    });
    assert.equal(later.evidence.fact, 'the test says so');
  });

  it('that stood still by no order of ours is told the time when it goes on', () => {
    const going: VmEvent = { type: 'domain', says: 'running', evidence };
    for (const says of ['paused', 'stalled', 'hung', 'silent'] as const) {
      const halted: VmEvent[] = [events.agentUp, going, { type: 'domain', says, evidence }];
      const after: TargetSystem = [...halted, going].reduce(step, aTargetSystem());
      assert.deepEqual(
        [after.state, after.isBehind],
        ['READY', says === 'silent' ? undefined : true],
      );
      assert.equal(halted.reduce(step, aTargetSystem()).isBehind, undefined);
    }
  });

  it('keeps the time line of the first start when the agent comes back', () => {
    const ready = step(aTargetSystem(), events.agentUp);
    const again = step(ready, { ...events.agentUp, boot: { readyMs: 99 } } as VmEvent);
    assert.deepEqual([ready.boot.readyMs, again.boot.readyMs], [12, 12]);
  });

  it('keeps how long each of its starts took, and why there was one', () => {
    const at = (atMs: number, fact = 'asked for') => ({ ...evidence, fact, atMs });
    const runs = (atMs: number): VmEvent => ({
      type: 'domain',
      says: 'running',
      evidence: at(atMs),
    });
    const up = (atMs: number): VmEvent => ({ type: 'agentUp', evidence: at(atMs), boot: { readyMs: 40 } }); // prettier-ignore
    const start = { tier: 'warm', reason: 'there was a copy' } as const;
    const events: VmEvent[] = [
      up(40),
      ...(['freeze', 'frozen', 'thaw'] as const).map((type) => ({ type, evidence: at(1_000) })),
      ...[runs(1_300), runs(1_400), up(1_500), { type: 'agentDown', evidence: at(1_600) } as const],
      ...[up(1_700), { type: 'stopped', evidence: at(2_000, 'it broke') } as const, up(2_040)],
      { type: 'freeze', evidence: at(3_000) },
      { type: 'thaw', evidence: at(3_001, 'could not be parked') },
      ...[runs(3_002), up(3_003)],
      ...(['freeze', 'frozen', 'thaw'] as const).map((type) => ({ type, evidence: at(4_000) })),
      { type: 'frozen', evidence: at(4_001, 'could not be brought back') },
    ];
    const first = aTargetSystem({ recovery: 'restart', start, createdMs: 0 });
    assert.deepEqual(startsOf(events.reduce(step, first)), [
      { what: 'creation', ...start, fromMs: 0, boot: { readyMs: 40 } },
      {
        ...{ what: 'thaw', tier: 'saved', reason: 'asked for', fromMs: 1_000 },
        boot: { restoredMs: 300, readyMs: 500 },
      },
      {
        ...{ what: 'restart', tier: 'cold', reason: 'started again', fromMs: 2_000 },
        boot: { readyMs: 40 },
      },
    ]);
  });

  it('does not count the time on disk to its life time, and hears nothing while it goes there', () => {
    const ready = { ...inState('READY'), terminationMs: 1_000 };
    const at = (atMs: number) => ({ ...evidence, atMs });
    const going = step(ready, { type: 'freeze', evidence: at(100) });
    assert.deepEqual([going.state, going.desired], ['PAUSED', 'suspended']);
    for (const type of ['agentDown', 'domain', 'guest'] as const)
      assert.equal(step(going, events[type]), going);
    const parked = step(going, { type: 'frozen', evidence: at(200) });
    const back = step(parked, { type: 'thaw', evidence: at(5_100) });
    assert.deepEqual(
      [back.state, back.terminationMs, back.desired],
      ['UNREACHABLE', 6_000, undefined],
    );
    assert.equal(step(back, events.agentUp).state, 'READY');
  });

  it('one that cannot be parked goes on', () => {
    const going = step(inState('READY'), events.freeze);
    assert.equal(step(going, events.thaw).state, 'UNREACHABLE');
  });

  it('starts another machine where its owner wishes so, thrice within an hour', () => {
    const at = (atMs: number): VmEvent => ({ type: 'stopped', evidence: { ...evidence, atMs } });
    let system = { ...inState('READY'), recovery: 'restart' as const } as TargetSystem;
    for (const n of [1, 2, 3]) {
      system = step(system, at(n));
      assert.deepEqual(
        [system.state, system.generation, system.bootFromMs, system.lostJobs],
        ['INITIALIZING', n + 1, n, evidence.fact],
      );
      system = step(system, events.agentUp);
      assert.equal(system.state, 'READY');
    }
    assert.equal(step(system, at(4)).state, 'FAILED');
    assert.equal(step(system, at(3_600_001)).generation, 5);
  });

  it('that stopped on its way to disk leaves nothing to be brought back to the next', () => {
    const going = step({ ...inState('READY'), recovery: 'restart' }, events.freeze);
    const next = step({ ...going, parkedOn: 'an equal of its host' }, events.stopped);
    assert.deepEqual(
      [next.state, next.desired, next.parkedOn],
      ['INITIALIZING', undefined, undefined],
    );
  });

  it('says of another machine how that was started', () => {
    const start = { tier: 'spare', reason: 'was running, and free' } as const;
    const first = step(aTargetSystem({ recovery: 'restart', start }), events.agentUp);
    assert.deepEqual(step(first, events.stopped).start, { tier: 'cold', reason: 'started again' });
  });

  it('starts none in the place of one that was never ready', () => {
    const starting = { ...aTargetSystem(), recovery: 'restart' as const };
    assert.equal(step(starting, events.stopped).state, 'FAILED');
  });
});
