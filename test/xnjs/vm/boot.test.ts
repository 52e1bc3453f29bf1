import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { completeTimeline } from '#xnjs/vm/boot.js';

const facts = {
  agentVersion: '0',
  tsiVersion: '11.2.1',
  kernel: '6',
  os: 'Debian',
  cores: 1,
  memoryBytes: 1,
  uptimeMs: 3_000,
  userSpaceMs: 1_000,
  agentMs: 2_500,
};
const started = { definedMs: 40, startedMs: 60 };

describe('the boot time line', () => {
  it('puts uptimes on the clock of the server', () => {
    assert.deepEqual(completeTimeline(started, facts, 10_000, 13_200, true), {
      ...started,
      kernelMs: 200,
      userSpaceMs: 1_200,
      agentMs: 2_700,
      readyMs: 3_200,
    });
  });

  it('has no kernel for a container', () => {
    assert.ok(!('kernelMs' in completeTimeline(started, facts, 10_000, 13_200, false)));
  });

  it('is not bent by a guest that lies', () => {
    const liar = { ...facts, uptimeMs: 1e12, userSpaceMs: 1e13, agentMs: 0 };
    const boot = completeTimeline(started, liar, 10_000, 13_200, true);
    assert.deepEqual([boot.kernelMs, boot.userSpaceMs, boot.agentMs], [60, 3_200, 3_200]);
  });

  it('keeps the order of marks that are closer than the clock of a guest is exact', () => {
    const quick = { ...facts, userSpaceMs: 2_500, agentMs: 2_498 };
    const boot = completeTimeline(started, quick, 10_000, 13_200, true);
    assert.deepEqual([boot.userSpaceMs, boot.agentMs], [2_700, 2_700]);
  });
});
