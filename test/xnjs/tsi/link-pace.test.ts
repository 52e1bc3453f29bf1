import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { Admissions } from '#xnjs/tsi/link-pace.js';
import { until } from '../../tsi/agent-process.js';

const never = new AbortController().signal;

describe('admissions', () => {
  it('let in a bounded number at a time, in turn, and all in the end', async () => {
    const admissions = new Admissions();
    let inside = 0;
    let most = 0;
    const order: number[] = [];
    const work = async (at: number): Promise<void> => {
      order.push(at);
      most = Math.max(most, ++inside);
      await new Promise(setImmediate);
      inside -= 1;
      if (at % 3 === 0) throw new Error('refused');
    };
    const all = Array.from({ length: 900 }, (_, at) => admissions.run(never, () => work(at)));
    const ends = await Promise.allSettled(all);
    assert.equal(ends.filter(({ status }) => status === 'rejected').length, 300);
    assert.deepEqual(
      order,
      [...order].sort((a, b) => a - b),
    );
    assert.ok(most > 1 && most < 300, `${most}`);
  });

  it('do not wait for those that take long, and forget who gives up', async () => {
    const admissions = new Admissions();
    const stalled = Promise.race(
      Array.from({ length: 600 }, () => admissions.run(never, () => new Promise(() => undefined))),
    );
    stalled.catch(() => undefined);
    const given = new AbortController();
    const left = admissions.run(given.signal, () => Promise.resolve('entered'));
    given.abort(new Error('it has given up'));
    await assert.rejects(left, /given up/);
    let isIn = false;
    void admissions.run(never, () => Promise.resolve((isIn = true)));
    await until('the next one is let in', () => isIn);
  });
});
