import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { systemClock } from '#kernel/clock.js';
import { silentLog } from '#kernel/log.js';
import { Scope } from '#kernel/scope.js';
import { Lease } from '#xnjs/persistence/sql-lease.js';
import { createTargetStore } from '#xnjs/persistence/sql-target-store.js';
import { aTargetSystem } from '../vm/samples.js';
import { databases, openTables } from './databases.js';

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
      const lease = scope.use(await Lease.take({ database, name: 'engine', ...common }));
      return { lease, store: createTargetStore(database, undefined, lease) };
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
        (await newer.store.all()).map(({ tags }) => tags),
        [['of the older']],
      );
      await newer.store.remove(aTargetSystem());
      assert.equal(await newer.store.wasRemoved(aTargetSystem().id), true);
    });

    it('also where it has nothing to write', { timeout: 20_000 }, async () => {
      const older = await start();
      const newer = await start();
      await older.lease.lost;
      await newer.lease.require();
    });
  });
