import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { after, before, describe, it } from 'node:test';
import { Scope } from '#kernel/scope.js';
import { createStorageStore } from '#xnjs/persistence/sql-storage-store.js';
import type { StorageStore } from '#xnjs/storage/storage.js';
import { databases, openTables } from '../persistence/databases.js';
import { aStorage } from './samples.js';

for (const [name, create, skip] of databases)
  describe(`the store of storages in ${name}`, { skip }, () => {
    const scope = new Scope();
    let url: string;
    let store: StorageStore;
    before(async () => {
      url = await create(scope);
      store = createStorageStore(await openTables(scope, url));
    });
    after(() => scope.close());

    it('gives back what was saved last, also when it is opened anew', async () => {
      const [one, two] = [aStorage({ id: randomUUID() }), aStorage({ id: randomUUID() })];
      await Promise.all([store.save(one), store.save(two)]);
      const ready = { ...one, state: 'READY' as const, terminationMs: 5 };
      await store.save(ready);
      const id = `${randomUUID()}-HOME`;
      await store.saveSettings(id, { umask: '22' });
      await store.saveSettings(id, { umask: '22', acl: ['read:DN:CN=Ünï'] });
      await using later = new Scope();
      const { created, settings } = await createStorageStore(await openTables(later, url)).all();
      const byId = (a: { id: string }, b: { id: string }) => (a.id < b.id ? -1 : 1);
      assert.deepEqual([...created].sort(byId), [ready, two].sort(byId));
      assert.deepEqual([...settings], [[id, { umask: '22', acl: ['read:DN:CN=Ünï'] }]]);
      for (const each of [one.id, two.id, id, 'no such id']) await store.remove(each);
      assert.deepEqual(await store.all(), { created: [], settings: new Map() });
    });
  });
