import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { linkSignals, startDeadline } from '#kernel/libvirt/signals.js';

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

  it('follow nobody once disposed', () => {
    const source = new AbortController();
    const linked = linkSignals(source.signal);
    linked[Symbol.dispose]();
    source.abort();
    assert.equal(linked.signal.aborted, false);
  });

  it('abort at a timeout that nobody else holds, through a garbage collection', async () => {
    setFlagsFromString('--expose-gc');
    const collect = runInNewContext('gc') as () => void;
    using linked = linkSignals(AbortSignal.timeout(50));
    const end = aborted(linked.signal);
    await delay(0); // out of the scope that made them
    collect();
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
});
