import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { after, before, describe, it } from 'node:test';
import { Scope } from '#kernel/scope.js';
import { siteChange } from '#xnjs/changes/site-change.js';
import { createTargetStore, createTargetStores } from '#xnjs/persistence/sql-target-store.js';
import type { TargetStore } from '#xnjs/vm/target-store.js';
import type { TargetSystem } from '#xnjs/vm/target-system.js';
import { ShiftedClock } from '../../targetsystem/shifted-clock.js';
import { aTargetSystem } from '../vm/samples.js';
import { databases, openTables } from './databases.js';
import { allOf } from './all-of.js';

for (const [name, create, skip] of databases)
  describe(`the store of target systems in ${name}`, { skip }, () => {
    const scope = new Scope();
    let url: string;
    let store: TargetStore;
    before(async () => {
      url = await create(scope);
      store = createTargetStore(await openTables(scope, url));
    });
    after(() => scope.close());

    it('gives back what was saved last, whoever saves at the same time', async () => {
      const systems = Array.from({ length: 20 }, (_, createdMs) =>
        aTargetSystem({ id: randomUUID(), createdMs, tags: ['ünï\n😀\0'] }),
      );
      await Promise.all(systems.map((system) => store.save(system)));
      const [first, ...others] = systems;
      const changed = { ...first!, state: 'READY' as const };
      await store.save(changed);
      const found = (await allOf(store.all())).sort((a, b) => a.createdMs - b.createdMs);
      assert.deepEqual(found, [changed, ...others]);
    });

    it('takes what a version that knew no hosts has stored for machines of the host local', async () => {
      const { host, ...old } = aTargetSystem({ id: randomUUID() });
      await store.save(old as TargetSystem); // as that version did
      const found = (await allOf(store.all())).find(({ id }) => id === old.id);
      assert.deepEqual([found?.host, host], ['local', 'local']);
      await store.remove(old);
    });

    it('forgets what is removed, and minds nothing that is not there', async () => {
      const { id } = aTargetSystem();
      await store.save(aTargetSystem());
      const { ownerDn } = aTargetSystem();
      await store.remove({ id, ownerDn });
      await store.remove({ id, ownerDn });
      await store.remove({ id: 'no such id', ownerDn });
      assert.ok((await allOf(store.all())).every((system) => system.id !== id));
    });

    it('knows that one was removed, also when it has dropped the note of that', async () => {
      const clock = new ShiftedClock();
      const aged = createTargetStore(await openTables(scope, url), undefined, undefined, clock);
      const [gone, later] = [randomUUID(), randomUUID()].map((id) =>
        aTargetSystem({ id, createdMs: clock.now() }),
      );
      for (const system of [gone!, later!]) await aged.save(system);
      await aged.remove(gone!);
      assert.equal(await aged.absenceOf(gone!.createdMs), 'lost', 'it would have the note');
      clock.advance(91 * 86_400_000);
      await aged.remove(later!);
      assert.deepEqual(
        [await aged.wasRemoved(gone!.id), await aged.wasRemoved(later!.id)],
        [false, true],
      );
      assert.equal(await aged.absenceOf(gone!.createdMs), 'removed');
      assert.equal(await aged.absenceOf(clock.now()), 'lost');
      assert.equal(await aged.absenceOf(1), 'unclear', 'that was before this database');
    });

    it('makes a spare machine a target system once, and it is no spare any more', async () => {
      const { targets, spares } = createTargetStores(await openTables(scope, url));
      const { ownerDn, ...machine } = aTargetSystem({ id: randomUUID() });
      const { id, image, parameters, driver, host } = machine;
      const spare = { id, image, parameters, driver, host, callerDn: ownerDn, createdMs: 1 };
      await spares.save(spare);
      assert.deepEqual(await spares.all(), [spare]);
      const system = { ...machine, ownerDn };
      await spares.claim(system, siteChange('created', system));
      assert.deepEqual(await spares.all(), []);
      assert.ok((await allOf(targets.all())).some((found) => found.id === id));
      const second = { ...system, ownerDn: 'CN=Another' };
      await assert.rejects(spares.claim(second, siteChange('created', second)), {
        code: 'CONFLICT',
      });
      const owners = (await allOf(targets.all())).filter((found) => found.id === id);
      assert.deepEqual(owners, [system]);
    });

    it('remembers a spare that may be left on a host that was lost, and no other', async () => {
      const { targets, spares } = createTargetStores(await openTables(scope, url));
      const { ownerDn, image, parameters, driver, host } = aTargetSystem();
      for (const mayBeLeft of [true, false]) {
        const id = randomUUID();
        const spare = { id, image, parameters, driver, host, callerDn: ownerDn, createdMs: 1 };
        await spares.save(spare);
        await spares.remove(id, mayBeLeft);
        assert.deepEqual(await spares.all(), []);
        assert.equal(await targets.wasRemoved(id), mayBeLeft);
      }
    });

    it('remembers what it is told that nobody could look for, as often as it is told', async () => {
      const id = randomUUID();
      assert.equal(await store.wasRemoved(id), false);
      for (let n = 0; n < 2; n++) await store.noteRemoved(id);
      assert.equal(await store.wasRemoved(id), true);
    });

    it('finds all again when it is opened anew, beside the first', async () => {
      const before = await allOf(store.all());
      await using later = new Scope();
      const again = createTargetStore(await openTables(later, url));
      assert.deepEqual(await allOf(again.all()), before);
      await later.close();
      assert.deepEqual(await allOf(store.all()), before);
    });
  });
