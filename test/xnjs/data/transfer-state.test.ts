import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { stepTransfer } from '#xnjs/data/transfer-state.js';

describe('the states of a transfer', () => {
  const cases = [
    ['CREATED', 'start', 'RUNNING'],
    ['CREATED', 'failed', 'FAILED'],
    ['CREATED', 'abort', 'ABORTING'],
    ['CREATED', 'destroy', 'DESTROYING'],
    ['RUNNING', 'start', 'RUNNING'], // after a restart
    ['RUNNING', 'done', 'DONE'],
    ['RUNNING', 'failed', 'FAILED'],
    ['RUNNING', 'abort', 'ABORTING'],
    ['RUNNING', 'destroy', 'DESTROYING'],
    ['DONE', 'abort', 'DONE'],
    ['DONE', 'destroy', 'DESTROYING'],
    ['FAILED', 'abort', 'FAILED'],
    ['FAILED', 'destroy', 'DESTROYING'],
    ['ABORTING', 'start', 'ABORTING'],
    ['ABORTING', 'done', 'DONE'], // it was quicker
    ['ABORTING', 'failed', 'ABORTING'],
    ['ABORTING', 'abort', 'ABORTING'],
    ['ABORTING', 'cleared', 'ABORTED'],
    ['ABORTING', 'destroy', 'DESTROYING'],
    ['ABORTED', 'abort', 'ABORTED'],
    ['ABORTED', 'destroy', 'DESTROYING'],
    ['DESTROYING', 'start', 'DESTROYING'],
    ['DESTROYING', 'done', 'DESTROYING'],
    ['DESTROYING', 'failed', 'DESTROYING'],
    ['DESTROYING', 'abort', 'DESTROYING'],
    ['DESTROYING', 'destroy', 'DESTROYING'],
  ] as const;
  for (const [state, event, next] of cases)
    it(`${state} + ${event} -> ${next}`, () => assert.equal(stepTransfer(state, event), next));

  for (const [state, event] of [
    ['DONE', 'start'],
    ['FAILED', 'done'],
    ['CREATED', 'done'],
    ['ABORTED', 'cleared'],
  ] as const)
    it(`${state} takes no ${event}`, () =>
      assert.throws(() => stepTransfer(state, event), { code: 'CONFLICT' }));
});
