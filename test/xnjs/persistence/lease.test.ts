import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { after, before, describe, it } from 'node:test';
import { systemClock } from '#kernel/clock.js';
import { silentLog } from '#kernel/log.js';
import { Scope } from '#kernel/scope.js';
import { engineLease, Lease } from '#xnjs/persistence/sql-lease.js';
import { createTargetStore } from '#xnjs/persistence/sql-target-store.js';
import type { Job } from '#xnjs/job/job.js';
import { createJobStore } from '#xnjs/persistence/job-store.js';
import { aJob } from '../job/samples.js';
import { aTargetSystem } from '../vm/samples.js';
import { databases, openTables } from './databases.js';
import { allOf } from './all-of.js';

const fenced = { code: 'SITE_UNAVAILABLE' };

for (const [name, create, skip] of databases)
  describe(`two servers on one database in ${name}`, { skip }, () => {
    const scope = new Scope();
    let url: string;
    before(async () => {
      url = await create(scope);
    });
    after(() => scope.close());

    const start = async () => {
      const database = await openTables(scope, url);
      const common = { clock: systemClock, log: silentLog, intervalMs: 20 };
      const lease = scope.use(await Lease.take({ database, name: engineLease, ...common }));
      const jobs = createJobStore(database, lease);
      return { lease, jobs, store: createTargetStore(database, undefined, lease) };
    };

    it('the older one writes nothing any more, and is told so', { timeout: 20_000 }, async () => {
      const older = await start();
      await older.store.save(aTargetSystem({ tags: ['of the older'] }));
      const newer = await start();
      assert.ok(newer.lease.epoch > older.lease.epoch);
      await assert.rejects(older.store.save(aTargetSystem({ tags: ['too late'] })), fenced);
      await assert.rejects(older.store.remove(aTargetSystem()), fenced);
      await older.lease.lost;
      await assert.rejects(older.lease.require(), fenced);
      assert.deepEqual(
        (await allOf(newer.store.all())).map(({ tags }) => tags),
        [['of the older']],
      );
      await newer.store.remove(aTargetSystem());
      assert.equal(await newer.store.wasRemoved(aTargetSystem().id), true);
    });

    it('the older one writes no jobs, new or known to both', { timeout: 20_000 }, async () => {
      const older = await start();
      const job = aJob({ id: randomUUID() });
      await older.jobs.insert(job);
      const newer = await start();
      const rename = (name: string) => (found: Job) => ({ ...found, name });
      await assert.rejects(older.jobs.change(job.id, rename('too late')), fenced);
      await assert.rejects(older.jobs.insert(aJob({ id: randomUUID() })), fenced);
      const both = [older.jobs.change(job.id, rename('b')), older.jobs.change(job.id, rename('c'))];
      for (const { status } of await Promise.allSettled(both)) assert.equal(status, 'rejected');
      assert.deepEqual(await newer.jobs.find(job.id), job);
      await newer.jobs.change(job.id, rename('of the newer'));
      assert.equal((await newer.jobs.find(job.id))?.name, 'of the newer');
      assert.equal((await newer.jobs.unfinished({ num: 10 })).length, 1);
      await older.lease.lost;
    });

    it('also where it has nothing to write', { timeout: 20_000 }, async () => {
      const older = await start();
      const newer = await start();
      await older.lease.lost;
      await newer.lease.require();
    });
  });
