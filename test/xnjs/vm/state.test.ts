import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { step, type VmEvent, type VmState } from '#xnjs/vm/state.js';
import { aTargetSystem } from './samples.js';

const evidence = { source: 'hypervisor', fact: 'the test says so', atMs: 7 } as const;
const events: Record<VmEvent['type'], VmEvent> = {
  agentUp: { type: 'agentUp', evidence, boot: { readyMs: 12 } },
  agentDown: { type: 'agentDown', evidence },
  stopped: { type: 'stopped', evidence },
  failed: { type: 'failed', evidence },
  destroy: { type: 'destroy', evidence },
  removed: { type: 'removed', evidence },
};

/** State, then what becomes of it by: agentUp agentDown stopped failed destroy removed (`-`: illegal). */
const table = `
INITIALIZING READY       INITIALIZING FAILED     FAILED     DESTROYING -
READY        READY       UNREACHABLE  FAILED     -          DESTROYING -
UNREACHABLE  READY       UNREACHABLE  FAILED     -          DESTROYING -
FAILED       FAILED      FAILED       FAILED     FAILED     DESTROYING -
DESTROYING   DESTROYING  DESTROYING   DESTROYING DESTROYING DESTROYING DESTROYED
DESTROYED    -           -            -          -          DESTROYED  -
`;

describe('the life of a virtual machine', () => {
  for (const line of table.trim().split('\n')) {
    const [state, ...cells] = line.split(/\s+/) as [VmState, ...string[]];
    for (const [index, event] of Object.values(events).entries()) {
      const expected = cells[index]!;
      it(`${state} + ${event.type} -> ${expected}`, () => {
        const act = () => step(aTargetSystem({ state }), event).state;
        if (expected === '-') assert.throws(act, { code: 'VM_ILLEGAL_EVENT' });
        else assert.equal(act(), expected);
      });
    }
  }

  it('keeps the first cause of a failure', () => {
    const failed = step(aTargetSystem({ state: 'READY' }), events.stopped);
    const later = step(failed, {
      type: 'stopped',
      evidence: { ...evidence, fact: 'something later' },
    });
    assert.equal(later.evidence.fact, 'the test says so');
  });

  it('keeps the time line of the first start when the agent comes back', () => {
    const ready = step(aTargetSystem({ state: 'INITIALIZING' }), events.agentUp);
    const again = step(ready, { ...events.agentUp, boot: { readyMs: 99 } } as VmEvent);
    assert.deepEqual([ready.boot.readyMs, again.boot.readyMs], [12, 12]);
  });
});
