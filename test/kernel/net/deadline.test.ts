import assert from 'node:assert/strict';
import { EventEmitter, getMaxListeners } from 'node:events';
import { describe, it } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { linkSignals, startDeadline, withDeadline } from '#kernel/net/deadline.js';
import { collectGarbage } from './garbage.js';

const aborted = (signal: AbortSignal): Promise<unknown> =>
  new Promise((resolve) =>
    signal.addEventListener('abort', () => resolve(signal.reason), { once: true }),
  );

describe('linked signals', () => {
  it('abort with the first of them', () => {
    const [first, second] = [new AbortController(), new AbortController()];
    using linked = linkSignals(first.signal, undefined, second.signal);
    second.abort('second');
    first.abort('first');
    assert.equal(linked.signal.reason, 'second');
  });

  it('are aborted from the start by one that was', () => {
    using linked = linkSignals(new AbortController().signal, AbortSignal.abort('before'));
    assert.equal(linked.signal.reason, 'before');
  });

  it('leave signals, and what else emits, as fit for others as they were', () => {
    const { defaultMaxListeners } = EventEmitter;
    const source = new AbortController();
    for (const sources of [[], [undefined], [source.signal]])
      linkSignals(...sources)[Symbol.dispose]();
    assert.equal(EventEmitter.defaultMaxListeners, defaultMaxListeners);
    // as fetch does
    for (const { signal } of [source, new AbortController()])
      assert.ok(getMaxListeners(signal) > 0);
  });

  it('follow nobody once disposed', () => {
    const source = new AbortController();
    const linked = linkSignals(source.signal);
    linked[Symbol.dispose]();
    source.abort();
    assert.equal(linked.signal.aborted, false);
  });

  it('abort at a timeout that nobody else holds, through a garbage collection', async () => {
    using linked = linkSignals(AbortSignal.timeout(50));
    const end = aborted(linked.signal);
    await delay(0); // out of the scope that made them
    collectGarbage();
    // Such a signal does not keep the process alive by itself
    const alive = delay(5_000, undefined, { signal: linked.signal }).catch(() => undefined);
    assert.equal(((await end) as Error).name, 'TimeoutError');
    await alive;
  });
});

describe('a deadline', () => {
  it('aborts with its reason', async () => {
    const reason = new Error('too late');
    using deadline = startDeadline(1, () => reason);
    assert.equal(await aborted(deadline.signal), reason);
  });

  it('comes through a garbage collection, and ends the work', async () => {
    const late = new Error('too late');
    let until: AbortSignal | undefined;
    const work = withDeadline(
      50,
      [new AbortController().signal],
      () => late,
      (signal) => {
        until = signal;
        return new Promise(() => undefined);
      },
    );
    await Promise.all([
      assert.rejects(work, late),
      delay(0).then(collectGarbage), // out of the scope that made the signals
    ]);
    assert.equal(until?.aborted, true);
  });

  it('leaves the end to an outer signal that is quicker, however many follow it', async () => {
    const outer = new AbortController();
    const warnings: Error[] = [];
    const warn = (warning: Error): void => void warnings.push(warning);
    process.on('warning', warn);
    const never = (): Promise<never> => new Promise(() => undefined);
    const expired = (): Error => new Error('too late');
    const all = Array.from({ length: 20 }, () =>
      withDeadline(60_000, [undefined, outer.signal], expired, never),
    );
    await delay(0);
    outer.abort(new RangeError('enough'));
    for (const work of all) await assert.rejects(work, RangeError);
    process.off('warning', warn);
    assert.deepEqual(warnings, []);
  });
});
