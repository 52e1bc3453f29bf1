import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { after, before, describe, it } from 'node:test';
import { QueryTypes } from 'sequelize';
import type { Database } from '#kernel/persistence/database.js';
import { Scope } from '#kernel/scope.js';
import type { Job } from '#xnjs/job/job.js';
import type { JobFilter, JobStore } from '#xnjs/job/store.js';
import { createJobStore } from '#xnjs/persistence/job-store.js';
import { aJob } from '../job/samples.js';
import { databases, openTables } from './databases.js';

for (const [name, create, skip] of databases)
  describe(`the job store in ${name}`, { skip }, () => {
    const scope = new Scope();
    let database: Database;
    let store: JobStore;
    before(async () => {
      database = await openTables(scope, await create(scope));
      store = createJobStore(database);
    });
    after(() => scope.close());

    async function inserted(change: Parameters<typeof aJob>[0] = {}): Promise<Job> {
      const job = aJob({ id: randomUUID(), ...change });
      await store.insert(job);
      return job;
    }

    it('gives back what was stored', async () => {
      const job = await inserted({ tags: ['a'], description: { Name: 'ünï\n😀' } });
      assert.deepEqual(await store.find(job.id), job);
      assert.equal(await store.find(randomUUID()), undefined);
    });

    it('gives back, and changes, what was stored before descriptions had a column', async () => {
      const job = aJob({ id: randomUUID(), description: { Name: 'old' } });
      await database.sequelize.query(
        `INSERT INTO jobs (id, owner_dn, target_id, active, destroying, created_ms, termination_ms, document)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
        { bind: [job.id, job.ownerDn, job.targetId, true, false, 1, 9, JSON.stringify(job)] },
      );
      assert.deepEqual(await createJobStore(database).find(job.id), job);
      const named = { ...job, name: 'changed' };
      await store.change(job.id, () => named);
      assert.deepEqual(await createJobStore(database).find(job.id), named);
    });

    it('shows all readers the last change, however many come between', async () => {
      const { id } = await inserted({ description: { Name: 'kept' } });
      const changes = Array.from({ length: 20 }, (_, at) =>
        store.change(id, (job) => ({ ...job, name: String(at) })),
      );
      const others = Array.from({ length: 1_200 }, () => inserted());
      await Promise.all([...changes, ...others]);
      for (const reader of [store, createJobStore(database)]) {
        const found = await reader.find(id);
        assert.deepEqual([found?.name, found?.description], ['19', { Name: 'kept' }]);
      }
    });

    it('has no job with an id that is none', async () => {
      assert.equal(await store.find('no such id'), undefined);
      await assert.rejects(
        store.change('no such id', (job) => job),
        { code: 'JOB_UNKNOWN' },
      );
    });

    it('lists the newest first, in pages, by owner, target and all of the tags', async () => {
      const mine = { ownerDn: `CN=${randomUUID()}` };
      const targetId = randomUUID();
      const old = await inserted({ ...mine, createdMs: 1, tags: ['a', "b' OR 1=1"] });
      const young = await inserted({ ...mine, createdMs: 3, tags: ['a'], targetId });
      const middle = await inserted({ ...mine, createdMs: 2, targetId });
      await inserted({ ...mine, state: 'DESTROYING', tags: ['a'], targetId });
      const list = async (filter: JobFilter, offset = 0, num = 9) => {
        const { ids, total } = await store.list({ ...mine, ...filter }, { offset, num });
        return [total, ...ids];
      };
      assert.deepEqual(await list({}), [3, young.id, middle.id, old.id]);
      assert.deepEqual(await list({}, 1, 1), [3, middle.id]);
      assert.deepEqual(await list({}, 9), [3]);
      assert.deepEqual(await list({}, 0, 0), [3]);
      assert.deepEqual(await list({ targetId }), [2, young.id, middle.id]);
      assert.deepEqual(await list({ tags: ['a', 'a'] }), [2, young.id, old.id]);
      assert.deepEqual(await list({ tags: ['a', "b' OR 1=1"] }), [1, old.id]);
      assert.deepEqual(await list({ tags: ['\\'] }), [0]);
      assert.deepEqual(await list({ ownerDn: 'CN=Nobody' }), [0]);
      const here = await store.list({ targetId }, { offset: 0, num: 0 });
      assert.deepEqual(
        [await store.count(targetId), await store.count(randomUUID())],
        [here.total, 0],
      );
    });

    it('replaces the tags of a job', async () => {
      const { id } = await inserted({ tags: ['before', 'both'] });
      const found = async (tag: string) =>
        (await store.list({ tags: [tag] }, { offset: 0, num: 9 })).ids.includes(id);
      await store.change(id, (job) => ({ ...job, tags: ['both', 'after'] }));
      assert.deepEqual(await Promise.all(['before', 'both', 'after'].map(found)), [
        false,
        true,
        true,
      ]);
    });

    it('makes changes of one job one after another, whoever else writes', async () => {
      const { id } = await inserted();
      const append = (n: number) =>
        store.change(id, (job) => ({ ...job, log: [...job.log, String(n)] }));
      const others = Array.from({ length: 50 }, () => inserted());
      await Promise.all([...Array.from({ length: 300 }, (_, n) => append(n)), ...others]);
      assert.deepEqual(
        (await store.find(id))?.log,
        Array.from({ length: 300 }, (_, n) => String(n)),
      );
    });

    it('lets a change that throws touch nothing, and no other', async () => {
      const [bad, good] = [await inserted(), await inserted()];
      const results = await Promise.allSettled([
        store.change(bad.id, () => {
          throw new RangeError('no');
        }),
        store.change(good.id, (job) => ({ ...job, name: 'changed' })),
        store.change(randomUUID(), (job) => job),
        store.insert(good), // refused by the database: it is there already, and is only overwritten
      ]);
      assert.deepEqual(
        results.map(({ status }) => status),
        ['rejected', 'fulfilled', 'rejected', 'fulfilled'],
      );
      assert.equal((await store.find(bad.id))?.name, 'sample');
    });

    it('removes what is destroyed, with its tags', async () => {
      const { id } = await inserted({ tags: ['gone'] });
      await store.change(id, (job) => ({ ...job, state: 'DESTROYED' }));
      assert.equal(await store.find(id), undefined);
      assert.equal((await store.list({ tags: ['gone'] }, { offset: 0, num: 9 })).total, 0);
      await assert.rejects(
        store.change(id, (job) => job),
        { code: 'JOB_UNKNOWN' },
      );
    });

    it('finds unfinished and expired jobs in pages', async () => {
      const targetId = randomUUID();
      const mine = { targetId, terminationMs: 500 };
      const ids = [];
      for (const state of ['RUNNING', 'DESTROYING', 'CREATED'] as const)
        ids.push((await inserted({ ...mine, state })).id);
      await inserted({ ...mine, state: 'DONE' });
      ids.sort();
      const [first, ...rest] = await store.unfinished({ targetId, num: 1 });
      const more = await store.unfinished({ targetId, num: 9, afterId: first!.id });
      assert.deepEqual(
        [first, ...rest, ...more].map((job) => job?.id),
        ids,
      );
      assert.equal((await store.expired(500, 9)).length, 3); // not the one being destroyed
      assert.equal((await store.expired(499, 9)).length, 0);
    });
  });

describe('the job store in SQLite', () => {
  const scope = new Scope();
  let database: Database;
  before(async () => {
    const [[, create]] = databases;
    database = await openTables(scope, await create(scope));
  });
  after(() => scope.close());

  const plans: [string, string, RegExp][] = [
    [
      'a list of an owner',
      "owner_dn = 'x' AND destroying = 0 ORDER BY created_ms DESC, id DESC",
      /COVERING INDEX jobs_by_owner/,
    ],
    [
      'a list of a target',
      "target_id = 'x' AND destroying = 0 ORDER BY created_ms DESC, id DESC",
      /COVERING INDEX jobs_by_target/,
    ],
    ['what is unfinished', "active = 1 AND id > 'x' ORDER BY id", /INDEX jobs_active/],
    [
      'what is unfinished on a target',
      "active = 1 AND id > 'x' AND target_id = 'x' ORDER BY id",
      /INDEX jobs_active_by_target/,
    ],
    ['what is expired', 'termination_ms <= 1', /INDEX jobs_by_termination/],
  ];
  for (const [what, where, index] of plans)
    it(`finds ${what} by an index, without sorting`, async () => {
      const rows = await database.sequelize.query<{ detail: string }>(
        `EXPLAIN QUERY PLAN SELECT id FROM jobs WHERE ${where}`,
        { type: QueryTypes.SELECT },
      );
      const plan = rows.map(({ detail }) => detail).join('\n');
      assert.match(plan, index);
      assert.doesNotMatch(plan, /SCAN|TEMP B-TREE/);
    });
});
