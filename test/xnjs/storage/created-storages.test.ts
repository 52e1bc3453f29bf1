import assert from 'node:assert/strict';
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { systemClock } from '#kernel/clock.js';
import { GridError } from '#kernel/errors.js';
import { silentLog } from '#kernel/log.js';
import { Scope } from '#kernel/scope.js';
import type { FileSpace } from '#xnjs/files/file-space.js';
import { createStorageStore } from '#xnjs/persistence/sql-storage-store.js';
import { CreatedStorages } from '#xnjs/storage/created-storages.js';
import { HostStorages } from '#xnjs/storage/host-storages.js';
import type { CreatedStorage, StorageStore } from '#xnjs/storage/storage.js';
import type { Target } from '#xnjs/target.js';
import { LocalTargets, scratch, targetId, until } from '../job/rig.js';
import { openTables } from '../persistence/databases.js';
import { aStorage } from './samples.js';

type Rig = {
  readonly base: string;
  readonly store: StorageStore;
  readonly targets: LocalTargets;
  /** As the server does at its start, with what the store holds. */
  readonly start: (filesOf?: (record: CreatedStorage) => FileSpace) => Promise<CreatedStorages>;
};

async function rig(scope: Scope): Promise<Rig> {
  const base = join(scratch(scope), 'base');
  const store = createStorageStore(await openTables(scope, `sqlite:${base}.sqlite`));
  const host = new HostStorages(systemClock);
  await host.prepare([base]);
  const targets = new LocalTargets(() => {
    throw new GridError('TSI_UNAVAILABLE', 'not there');
  }, '/jobs');
  const onHost = ({ id }: CreatedStorage): FileSpace => host.ofStorage(base, id, '077');
  const start = async (filesOf = onHost): Promise<CreatedStorages> => {
    const storages = scope.use(
      new CreatedStorages({
        ...{ store, targets, clock: systemClock, log: silentLog, filesOf },
        ...{ perUser: 3, reaperIntervalMs: 20 },
      }),
    );
    storages.start((await store.all()).created);
    return storages;
  };
  return { base, store, targets, start };
}

const onTarget = { on: 'target', targetId, path: '/x' } as const;

describe('storages that users had made, over a crash', { timeout: 60_000 }, () => {
  it('are made when the server died before it made the directory', async () => {
    await using scope = new Scope();
    const { base, store, start } = await rig(scope);
    const record = aStorage();
    await store.save(record);
    const storages = await start();
    await until('it is ready', () => storages.find(record.id)?.state === 'READY');
    assert.ok(existsSync(join(base, record.id)));
    assert.equal((await store.all()).created[0]!.state, 'READY');
  });

  it('are stored before their directory is made', async () => {
    await using scope = new Scope();
    const { store, start } = await rig(scope);
    let stored: readonly CreatedStorage[] = [];
    const storages = await start(() => ({
      ...({} as FileSpace),
      mkdir: async () => {
        stored = (await store.all()).created;
      },
    }));
    await storages.add(aStorage());
    await until('it is ready', () => storages.all()[0]?.state === 'READY');
    assert.equal(stored[0]?.state, 'INITIALIZING');
  });

  it('go on being removed, with whatever is left of their directory', async () => {
    await using scope = new Scope();
    const { base, store, start } = await rig(scope);
    const record = aStorage({ state: 'DESTROYING' });
    await store.save(record);
    mkdirSync(join(base, record.id, 'left'), { recursive: true });
    writeFileSync(join(base, record.id, 'left/over'), '');
    const kept = aStorage({ id: 'kept', state: 'DESTROYING', cleanup: false });
    await store.save(kept);
    mkdirSync(join(base, 'kept'));
    const storages = await start();
    await until('both are gone', () => storages.all().length === 0);
    assert.deepEqual(
      [existsSync(join(base, record.id)), existsSync(join(base, 'kept'))],
      [false, true],
    );
    assert.deepEqual((await store.all()).created, []);
  });

  it('expire, also while the server was down', async () => {
    await using scope = new Scope();
    const { store, start } = await rig(scope);
    await store.save(aStorage({ state: 'READY', terminationMs: 1 }));
    await store.save(aStorage({ id: 'later', state: 'READY', terminationMs: Date.now() + 60_000 }));
    const storages = await start();
    await until('one is gone', () => storages.all().length === 1);
    assert.equal(storages.all()[0]!.id, 'later');
  });

  it('wait for a target system that does not answer, and fail only with it', async () => {
    await using scope = new Scope();
    const { targets, start } = await rig(scope);
    let answers = false;
    let gone = false;
    const find = targets.find.bind(targets);
    targets.find = (id: string): Target | undefined => (gone ? undefined : find(id));
    const storages = await start(() => ({
      ...({} as FileSpace),
      mkdir: () =>
        answers
          ? Promise.resolve()
          : Promise.reject(new GridError('TSI_UNAVAILABLE', 'does not answer')),
    }));
    await storages.add(aStorage({ id: 'one', place: onTarget }));
    assert.equal(storages.find('one')?.state, 'INITIALIZING');
    answers = true;
    targets.emit({ type: 'ready', targetId });
    await until('it is ready', () => storages.find('one')?.state === 'READY');
    gone = true;
    targets.emit({ type: 'lost', targetId, reason: 'destroyed' });
    await until('it has failed', () => storages.find('one')?.state === 'FAILED');
    await storages.destroy('one', 'no longer wanted');
    await until('it is gone', () => storages.find('one') === undefined);
  });

  it('say why they could not be made', async () => {
    await using scope = new Scope();
    const { start } = await rig(scope);
    const storages = await start(() => ({
      ...({} as FileSpace),
      mkdir: () => Promise.reject(new GridError('TSI_FAILED', 'Permission denied')),
    }));
    await storages.add(aStorage());
    await until('it has failed', () => storages.all()[0]?.state === 'FAILED');
    assert.match(storages.all()[0]!.reason, /Permission denied/);
  });

  it('are limited for each user, however many are asked for at once', async () => {
    await using scope = new Scope();
    const { start } = await rig(scope);
    const storages = await start();
    const wishes = ['a', 'b', 'c', 'd'].map((id) => storages.add(aStorage({ id })));
    const outcomes = await Promise.allSettled(wishes);
    assert.deepEqual(outcomes.map(({ status }) => status).sort(), [
      'fulfilled',
      'fulfilled',
      'fulfilled',
      'rejected',
    ]);
    await storages.add(aStorage({ id: 'e', ownerDn: 'CN=Bob,O=Grid' }));
  });
});
