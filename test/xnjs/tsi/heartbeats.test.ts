import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { type Heart, Heartbeats } from '#xnjs/tsi/heartbeats.js';
import { until } from '../../tsi/agent-process.js';

function heartOf(
  heartbeats: Heartbeats,
  beats: boolean,
  options: { everyMs: number; silenceMs: number },
): { count: () => number; silences: () => number; heart: Heart } {
  let count = 0;
  let silences = 0;
  const heart = heartbeats.start({
    ...options,
    beat: () => {
      count += 1;
      if (beats) setImmediate(() => heartbeats.answered(heart));
    },
    onSilence: () => (silences += 1),
  });
  return { count: () => count, silences: () => silences, heart };
}

describe('heartbeats', () => {
  it('go on where they are answered, and are the last where not', async () => {
    const heartbeats = new Heartbeats();
    const options = { everyMs: 20, silenceMs: 100 };
    const well = heartOf(heartbeats, true, options);
    const silent = heartOf(heartbeats, false, options);
    await until('it is found silent', () => silent.silences() > 0);
    const before = well.count();
    await until('the other goes on', () => well.count() > before + 3);
    assert.deepEqual([silent.count(), silent.silences(), well.silences()], [1, 1, 0]);
  });

  it('are sent for nobody who has stopped', async () => {
    const heartbeats = new Heartbeats();
    const options = { everyMs: 20, silenceMs: 40 };
    const stopped = heartOf(heartbeats, false, options);
    const other = heartOf(heartbeats, true, options);
    heartbeats.stop(stopped.heart);
    heartbeats.stop(stopped.heart);
    await until('the other has been asked', () => other.count() > 5);
    assert.deepEqual([stopped.count(), stopped.silences()], [0, 0]);
  });

  it('do not take a process that was held up for silence of others', async () => {
    const heartbeats = new Heartbeats();
    const { heart, count, silences } = heartOf(heartbeats, true, { everyMs: 20, silenceMs: 100 });
    await until('it was asked', () => count() > 0);
    for (const end = performance.now() + 300; performance.now() < end;);
    const before = count();
    await until('it goes on', () => count() > before);
    assert.equal(silences(), 0);
    heartbeats.stop(heart);
  });

  it('are fewer for each where there are many: a thousand a second for all', async () => {
    const heartbeats = new Heartbeats();
    const options = { everyMs: 20, silenceMs: 60_000 };
    const all = Array.from({ length: 2_000 }, () => heartOf(heartbeats, true, options));
    const startedMs = performance.now();
    await until('each was asked', () => all.every(({ count }) => count() > 0));
    const most = 1.5 * (performance.now() - startedMs) + 500;
    const sent = all.reduce((sum, { count }) => sum + count(), 0);
    assert.ok(sent < most, `${sent} of ${most}`);
    for (const { heart } of all) heartbeats.stop(heart);
  });
});
