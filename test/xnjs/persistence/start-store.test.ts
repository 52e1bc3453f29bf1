import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { after, before, describe, it } from 'node:test';
import { silentLog } from '#kernel/log.js';
import { migrate } from '#kernel/persistence/migrate.js';
import { Scope } from '#kernel/scope.js';
import { createStartStore, startMigrations } from '#xnjs/persistence/sql-start-store.js';
import type { StartStore } from '#xnjs/vm/placement/starts.js';
import { databases, openTables } from './databases.js';

for (const [name, create, skip] of databases)
  describe(`the store of starts in ${name}`, { skip }, () => {
    const scope = new Scope();
    let store: StartStore;
    before(async () => {
      const database = await openTables(scope, await create(scope));
      await migrate(database, 'starts', startMigrations, silentLog);
      store = createStartStore(database);
    });
    after(() => scope.close());

    const start = (imageId: string, atMs: number) => ({
      ...{ targetId: randomUUID(), imageId, tier: 'cold' as const, durationMs: atMs, atMs },
    });

    it('counts each target system once, and each image for itself', async () => {
      const [image, other] = [randomUUID(), randomUUID()];
      const first = start(image, 10);
      await store.add(first);
      await store.add({ ...first, durationMs: 99 });
      await store.add({ ...start(image, 20), tier: 'warm' });
      await store.add(start(other, 30));
      const found = (await store.latest(image)).sort((a, b) => a.durationMs - b.durationMs);
      assert.deepEqual(found, [
        { tier: 'cold', durationMs: 10 },
        { tier: 'warm', durationMs: 20 },
      ]);
    });

    it('keeps the latest hundred', async () => {
      const image = randomUUID();
      for (let at = 1; at <= 103; at++) await store.add(start(image, at));
      const found = (await store.latest(image)).map(({ durationMs }) => durationMs);
      assert.deepEqual([found.length, Math.min(...found)], [100, 4]);
    });
  });
