import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { letGo } from '#kernel/net/let-go.js';

describe('memory that is let go of', () => {
  it('is free at once, without a collection of garbage', () => {
    const many = Array.from({ length: 64 }, () => Buffer.alloc(1_000_000, 1));
    const before = process.memoryUsage().arrayBuffers;
    for (const bytes of many) letGo(bytes);
    assert.ok(before - process.memoryUsage().arrayBuffers >= 64_000_000);
    assert.deepEqual([...new Set(many.map(({ length }) => length))], [0]);
  });

  it('is left alone where other bytes lie in it', () => {
    const all = Buffer.from('abcdef'); // from the pool of node
    const part = Buffer.alloc(6, 'x').subarray(1);
    letGo(all);
    letGo(part);
    assert.deepEqual([String(all), String(part)], ['abcdef', 'xxxxx']);
  });
});
