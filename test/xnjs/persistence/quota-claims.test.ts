import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { after, before, describe, it } from 'node:test';
import { asGridError } from '#kernel/errors.js';
import { Scope } from '#kernel/scope.js';
import type { Database } from '#kernel/persistence/database.js';
import { claimMigrations } from '#xnjs/persistence/quota-claims.js';
import { createTargetStore } from '#xnjs/persistence/sql-target-store.js';
import type { Quota, QuotaScope } from '#xnjs/vm/placement/quota.js';
import type { TargetStore } from '#xnjs/vm/target-store.js';
import { aTargetSystem } from '../vm/samples.js';
import { databases as kinds, openTables } from './databases.js';
import { allOf } from './all-of.js';

for (const [name, create, skip] of kinds)
  describe(`quotas of target systems in ${name}`, { skip }, () => {
    const scope = new Scope();
    /** Of two servers. */
    let databases: readonly [Database, Database];
    let stores: readonly [TargetStore, TargetStore];
    before(async () => {
      const url = await create(scope);
      databases = [await openTables(scope, url), await openTables(scope, url)];
      stores = [createTargetStore(databases[0]), createTargetStore(databases[1])];
    });
    after(() => scope.close());

    const user = (dn: string): QuotaScope => ({ kind: 'user', name: dn });
    const system = (ownerDn: string, cpus: number, changes: object = {}) =>
      aTargetSystem({
        ...{ id: randomUUID(), ownerDn },
        parameters: { cpus, memoryMiB: 256, memoryMaxMiB: 512, diskMiB: 1024 },
        ...changes,
      });
    const quota = (dn: string, cpus: number): Quota => ({ scope: user(dn), allowed: { cpus } });

    it('are never exceeded, however many ask at once on two servers', async () => {
      const dn = 'CN=Many,O=Grid';
      const asked = Array.from({ length: 40 }, (_, at) =>
        stores[at % 2]!.save(system(dn, 2), undefined, [quota(dn, 13)]),
      );
      const results = await Promise.allSettled(asked);
      const refused = results.flatMap((each) =>
        each.status === 'rejected' ? [each.reason as unknown] : [],
      );
      assert.equal(refused.length, 34);
      for (const error of refused) assert.equal(asGridError(error)?.code, 'QUOTA_EXCEEDED');
      const expected = { targetSystems: 6, cpus: 12, memoryMiB: 6 * 512, diskMiB: 6 * 1024 };
      for (const store of stores) assert.deepEqual(await store.used(user(dn)), expected);
      const stored = (await allOf(stores[0].all())).filter(({ ownerDn }) => ownerDn === dn);
      assert.equal(stored.length, 6);
    });

    it('are refused with what is used, asked for and allowed', async () => {
      const dn = 'CN=Told,O=Grid';
      const quotas = [quota(dn, 4), { scope: { kind: 'site', name: '' }, allowed: {} } as const];
      await stores[0].save(system(dn, 3), undefined, quotas);
      await assert.rejects(stores[1].save(system(dn, 2), undefined, quotas), {
        code: 'QUOTA_EXCEEDED',
        message: `the quota of the user ${dn} is not enough: cpus: 3 used, 2 asked for, 4 allowed`,
      });
    });

    it('are given back when the record goes, and not before', async () => {
      const dn = 'CN=Back,O=Grid';
      const first = system(dn, 4);
      await stores[0].save(first, undefined, [quota(dn, 4)]);
      await stores[0].save({ ...first, state: 'DESTROYING' });
      const next = system(dn, 1);
      const ask = () => stores[1].save(next, undefined, [quota(dn, 4)]);
      await assert.rejects(ask(), { code: 'QUOTA_EXCEEDED' });
      await stores[0].remove(first);
      await ask();
      await ask(); // the same record counts once
      assert.equal((await stores[0].used(user(dn))).targetSystems, 1);
    });

    it('count what target systems of an earlier version have', async () => {
      const [{ sequelize }] = databases;
      const dn = 'CN=Earlier,O=Grid';
      await stores[0].save(system(dn, 3));
      await sequelize.query('DROP TABLE quota_claims');
      const [migration] = claimMigrations;
      await databases[0].transaction((transaction) =>
        migration!.up(sequelize.getQueryInterface(), transaction),
      );
      const { targetSystems, cpus } = await stores[1].used(user(dn));
      assert.deepEqual([targetSystems, cpus], [1, 3]);
    });

    it('are counted for users, virtual organisations, groups and the site', async () => {
      const before = await stores[0].used({ kind: 'site', name: '' });
      for (const [dn, countsFor] of [
        ['CN=A,O=Grid', { vo: '/astro', group: 'physics' }],
        ['CN=B,O=Grid', { vo: '/astro' }],
        ['CN=C,O=Grid', {}],
      ] as const)
        await stores[0].save(system(dn, 1, { countsFor }), undefined, []);
      const cpus = async (of: QuotaScope) => (await stores[1].used(of)).cpus;
      assert.equal(await cpus({ kind: 'vo', name: '/astro' }), 2);
      assert.equal(await cpus({ kind: 'group', name: 'physics' }), 1);
      assert.equal(await cpus({ kind: 'site', name: '' }), before.cpus + 3);
      assert.equal(await cpus(user('CN=Nobody,O=Grid')), 0);
    });
  });
