import assert from 'node:assert/strict';
import { Readable } from 'node:stream';
import { describe, it } from 'node:test';
import type { Clock } from '#kernel/clock.js';
import { silentLog } from '#kernel/log.js';
import { Scope } from '#kernel/scope.js';
import { Reaper } from '#xnjs/reaper.js';
import { alice, dataRig } from './data/rig.js';
import { until } from './job/rig.js';

/** Stands still until it is moved; who sleeps is woken when it is his time. */
class HandClock implements Clock {
  #nowMs = Date.parse('2026-11-25T12:00:00Z');
  readonly #sleepers = new Set<{ readonly untilMs: number; readonly wake: () => void }>();

  now = (): number => this.#nowMs;

  sleep(ms: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      const sleeper = { untilMs: this.#nowMs + ms, wake: resolve };
      this.#sleepers.add(sleeper);
      signal?.addEventListener('abort', () => {
        this.#sleepers.delete(sleeper);
        reject(signal.reason as Error);
      });
    });
  }

  move(ms: number): void {
    this.#nowMs += ms;
    for (const sleeper of this.#sleepers)
      if (sleeper.untilMs <= this.#nowMs && this.#sleepers.delete(sleeper)) sleeper.wake();
  }
}

const hour = 3_600_000;

describe('the reaper', { timeout: 60_000 }, () => {
  it('ends what is over, and tries again what could not be ended', async () => {
    const clock = new HandClock();
    const dies = new Map([
      ['soon', clock.now() + hour],
      ['late', clock.now() + 3 * hour],
      ['stubborn', clock.now() + hour],
    ]);
    const ended: string[] = [];
    let isBroken = true;
    await using reaper = new Reaper(
      { clock, log: silentLog, intervalMs: 1_000 },
      {
        what: 'thing',
        *expired(nowMs) {
          for (const [id, atMs] of dies) if (atMs <= nowMs) yield id;
        },
        end(id) {
          if (id === 'stubborn' && isBroken) return Promise.reject(new Error('not now'));
          ended.push(id);
          dies.delete(id);
          return Promise.resolve();
        },
      },
    );
    reaper.start();
    clock.move(hour - 1);
    await reaper.reap();
    assert.deepEqual(ended, []);
    clock.move(1);
    await reaper.reap();
    assert.deepEqual(ended, ['soon']);
    isBroken = false;
    clock.move(1_000); // its own turn
    await until('the other is ended', () => ended.length === 2);
    assert.deepEqual([...dies.keys()], ['late']);
  });

  it('ends transfers, tasks and shares at their time, which can be extended', async () => {
    await using scope = new Scope();
    const clock = new HandClock();
    const config = { reaperIntervalMs: 1_000, clientTransferSeconds: 7_200, recordSeconds: 7_200 };
    const { start, files } = await dataRig(scope, { clock, config });
    await files.write('x', Readable.from([Buffer.from('x')]));
    const { clientTransfers, transfers, tasks, shares } = await start();
    const common = { principal: alice, storageId: 'DATA', tags: [], parameters: {} };
    const one = async () => [
      (await clientTransfers.create({ ...common, file: 'x', isExport: true, append: false }))
        .transfer.id,
      (
        await transfers.create({
          ...{ ...common, file: 'y', direction: 'in', remote: 'inline://x', data: 'y' },
        })
      ).id,
      (
        await tasks.create({
          ...{ principal: alice, serviceUrl: '' },
          work: { do: 'extract', storageId: 'DATA', path: '/x', depth: 0 },
        })
      ).id,
    ];
    const records = [clientTransfers.records, transfers.records, tasks.records] as const;
    const [short, long] = [await one(), await one()];
    const user = 'CN=Bob,O=Grid';
    const share = {
      principal: alice,
      user,
      storageId: 'DATA',
      path: '/x',
      access: 'READ',
    } as const;
    const { id } = await shares.create({ ...share, isOneTime: false, lifetimeSeconds: 7_200 });
    clock.move(hour);
    const terminationMs = clock.now() + 2 * hour;
    for (const [at, each] of records.entries())
      await (each as typeof tasks.records).update(long[at]!, (old) => ({ ...old, terminationMs }));
    clock.move(hour);
    await until('the first are gone', () => records.every((each, at) => !each.find(short[at]!)));
    await until('the share is gone', () => !shares.records.find(id));
    assert.ok(records.every((each, at) => each.find(long[at]!)));
    assert.equal((await files.stat('x')).sizeBytes, 1, 'files stay');
    clock.move(hour);
    await until('the others are gone', () => records.every((each, at) => !each.find(long[at]!)));
  });
});
