import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { step, type StorageEvent, type StorageState } from '#xnjs/storage/state.js';
import { aStorage } from './samples.js';

const cases: [StorageState, StorageEvent['type'], StorageState][] = [
  ['INITIALIZING', 'made', 'READY'],
  ['INITIALIZING', 'failed', 'FAILED'],
  ['INITIALIZING', 'lost', 'FAILED'],
  ['INITIALIZING', 'destroy', 'DESTROYING'],
  ['READY', 'lost', 'FAILED'],
  ['READY', 'destroy', 'DESTROYING'],
  ['FAILED', 'lost', 'FAILED'],
  ['FAILED', 'destroy', 'DESTROYING'],
  ['DESTROYING', 'made', 'DESTROYING'],
  ['DESTROYING', 'failed', 'DESTROYING'],
  ['DESTROYING', 'lost', 'DESTROYING'],
  ['DESTROYING', 'destroy', 'DESTROYING'],
  ['DESTROYING', 'removed', 'DESTROYED'],
];
const states = ['INITIALIZING', 'READY', 'FAILED', 'DESTROYING', 'DESTROYED'] as const;
const types = ['made', 'failed', 'lost', 'destroy', 'removed'] as const;

describe('a storage that a user had made', () => {
  for (const [state, type, next] of cases)
    it(`${state} + ${type} -> ${next}`, () => {
      const after = step(aStorage({ state, reason: 'old' }), { type, reason: 'new' });
      assert.deepEqual([after.state, after.reason], [next, state === next ? 'old' : 'new']);
    });

  for (const state of states)
    for (const type of types)
      if (!cases.some(([from, event]) => from === state && event === type))
        it(`${state} + ${type} is refused`, () =>
          assert.throws(() => step(aStorage({ state }), { type, reason: '' }), {
            code: 'CONFLICT',
          }));
});
