import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { drawTimeline, lastMark } from '#cli/quickstart/timeline.js';

describe('the boot time line', () => {
  it('draws each mark from the one before it', () => {
    assert.deepEqual(drawTimeline({ definedMs: 100, kernelMs: 200, readyMs: 400 }, 8), [
      'defined       100 ms  ━━',
      'kernel        200 ms  ··━━',
      'ready         400 ms  ····━━━━',
    ]);
  });

  it('leaves out what a container does not have', () => {
    assert.ok(!drawTimeline({ definedMs: 3, readyMs: 40 }).some((line) => line.includes('kernel')));
  });

  it('names the furthest mark', () => {
    assert.equal(lastMark({}), 'requested');
    assert.equal(lastMark({ definedMs: 1, kernelMs: 2 }), 'kernel');
  });
});
