import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { Bag } from '#kernel/bag.js';

describe('a bag', () => {
  it('has what was put into it and not taken out, whatever the order', () => {
    const bag = new Bag<string>();
    for (const thing of ['a', 'b', 'c', 'd']) bag.add(thing);
    for (const thing of ['b', 'd', 'not there']) bag.delete(thing);
    assert.deepEqual([[...bag].sort(), bag.size], [['a', 'c'], 2]);
    for (const thing of ['a', 'c']) bag.delete(thing);
    assert.deepEqual([[...bag], bag.size], [[], 0]);
  });

  it('shows all that were there when the look began, while they leave', () => {
    const bag = new Bag<number>();
    for (const thing of [1, 2, 3]) bag.add(thing);
    const seen: number[] = [];
    for (const thing of bag) {
      seen.push(thing);
      bag.delete(thing);
    }
    assert.deepEqual([seen, bag.size], [[1, 2, 3], 0]);
  });
});
