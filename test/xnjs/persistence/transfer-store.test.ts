import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { after, before, describe, it } from 'node:test';
import { Scope } from '#kernel/scope.js';
import type { JobStore } from '#xnjs/job/store.js';
import { createJobStore } from '#xnjs/persistence/job-store.js';
import { createTransferStore } from '#xnjs/persistence/transfer-store.js';
import type { TransferStore } from '#xnjs/staging/progress.js';
import { aJob } from '../job/samples.js';
import { databases, openTables } from './databases.js';

for (const [name, create, skip] of databases)
  describe(`the store of transfers in ${name}`, { skip }, () => {
    const scope = new Scope();
    let jobs: JobStore;
    let store: TransferStore;
    before(async () => {
      const database = await openTables(scope, await create(scope));
      jobs = createJobStore(database);
      store = createTransferStore(database);
    });
    after(() => scope.close());

    it('keeps the newest record of each transfer, of one run and direction', async () => {
      const job = aJob({ id: randomUUID() });
      await jobs.insert(job);
      const key = { jobId: job.id, run: 1, direction: 'in' } as const;
      const half = { state: 'RUNNING', bytes: 5e9, file: '/ünï', validator: '"a"' } as const;
      await Promise.all([
        store.save({ ...key, index: 0 }, half),
        store.save({ ...key, index: 1 }, half),
        store.save({ ...key, index: 1 }, { state: 'DONE', bytes: 6e9 }),
        store.save({ ...key, index: 0, run: 2 }, half),
        store.save({ ...key, index: 0, direction: 'out' }, half),
      ]);
      assert.deepEqual(
        await store.find(key),
        new Map<number, object>([
          [0, half],
          [1, { state: 'DONE', bytes: 6e9 }],
        ]),
      );
    });

    it('forgets them with their job, which can change before', async () => {
      const job = aJob({ id: randomUUID() });
      await jobs.insert(job);
      const key = { jobId: job.id, run: 1, direction: 'in' } as const;
      await store.save({ ...key, index: 0 }, { state: 'DONE', bytes: 1 });
      await jobs.change(job.id, (before) => ({ ...before, name: 'changed' }));
      assert.equal((await store.find(key)).size, 1);
      await jobs.change(job.id, (before) => ({ ...before, state: 'DESTROYED' }));
      assert.equal((await store.find(key)).size, 0);
    });
  });
