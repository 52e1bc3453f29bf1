import assert from 'node:assert/strict';
import { mkdirSync, readdirSync, rmdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { GridError } from '#kernel/errors.js';
import { silentLog } from '#kernel/log.js';
import { openDatabase } from '#kernel/persistence/database.js';
import { migrate } from '#kernel/persistence/migrate.js';
import { Scope } from '#kernel/scope.js';
import { jobMigrations } from '#xnjs/persistence/job-models.js';
import { createTargetStore, targetMigrations } from '#xnjs/persistence/sql-target-store.js';
import { createVolumeStore } from '#xnjs/persistence/sql-volume-store.js';
import { setupOf } from '#xnjs/vm/context/machine-setup.js';
import { markXml, readMark } from '#xnjs/vm/domain-mark.js';
import { oneHost } from '#xnjs/vm/hosts/hosts.js';
import type { Hypervisor } from '#xnjs/vm/hypervisor.js';
import type { ImageSearch, ImageSource } from '#xnjs/vm/image-source.js';
import type { TargetStore } from '#xnjs/vm/target-store.js';
import { TargetSystems } from '#xnjs/vm/target-systems.js';
import { Workspace } from '#xnjs/vm/workspace.js';
import { ShiftedClock } from '../../targetsystem/shifted-clock.js';
import { scratch, until } from '../job/rig.js';
import { aTargetSystem } from './samples.js';

/** A fake without machines: it is only asked to remove some. */
const emptyHost = {
  available: () => [],
  onDomain: () => () => undefined,
  onAvailable: () => () => undefined,
  remove: () => Promise.resolve(),
} as unknown as Hypervisor; // the calls that are made are above

describe('target systems', { timeout: 30_000 }, () => {
  it('end with their life time, also where the database was away when that was over', async () => {
    await using scope = new Scope();
    const clock = new ShiftedClock();
    const system = aTargetSystem({ state: 'FAILED', terminationMs: clock.now() + 3_600_000 });
    let refusals = 0;
    const removed: string[] = [];
    const store: TargetStore = {
      async *all() {
        yield await Promise.resolve(system);
      },
      save: () => {
        if (refusals++ > 0) return Promise.resolve();
        return Promise.reject(new GridError('DATABASE_UNAVAILABLE', 'the database is away'));
      },
      has: () => Promise.resolve(true),
      wasRemoved: () => Promise.resolve(false),
      noteRemoved: () => Promise.resolve(),
      absenceOf: () => Promise.resolve('lost'),
      remove: ({ id }) => Promise.resolve(void removed.push(id)),
      used: () => Promise.reject(new TypeError('nothing is made here')),
    };
    const systems = scope.use(
      new TargetSystems({
        ...{
          store,
          clock,
          hosts: oneHost(emptyHost, silentLog),
          images: {} as ImageSource & ImageSearch,
        },
        ...{ log: silentLog, workspace: new Workspace(scratch(scope)), installationId: 'x' },
        ...{ bootTimeoutMs: 1_000, heartbeatMs: 1_000 },
        limits: { cpus: 1, memoryMiB: 512, perUser: 1 },
      }),
    );
    await systems.start();
    assert.equal(systems.list().length, 1);
    clock.advance(3_600_001);
    await until('the database has refused', () => refusals > 0);
    assert.equal(systems.list()[0]?.state, 'FAILED');
    clock.advance(1_001);
    await until('it is gone', () => removed.length > 0);
    assert.deepEqual(removed, [system.id]);
  });

  it('have their volumes again when a database that was lost has them again', async () => {
    await using scope = new Scope();
    const directory = scratch(scope);
    const url = `sqlite:${join(directory, 'db.sqlite')}`;
    const database = scope.use(await openDatabase({ url, log: silentLog }));
    await migrate(database, 'xnjs', [...targetMigrations, ...jobMigrations], silentLog);
    const volumeId = '6f1c5a52-8a2e-4c55-9a0b-0c1d2e3f4a5b';
    const volume = { name: 'data', sizeMiB: 1, path: '/mnt/data', volumeId };
    const { id, ownerDn, ...lost } = aTargetSystem({ volumes: [volume], state: 'READY' });
    const installationId = '11111111-2222-4333-8444-555555555555';
    const mark = readMark(markXml({ id, ownerDn, ...lost }, installationId, 1))!;
    const workspace = new Workspace(directory);
    await workspace.volumes.prepare([volume], directory, id);
    const clock = new ShiftedClock();
    let isThere = true;
    const domain = { id, state: 'running', reason: '', mark } as const;
    const host = {
      ...emptyHost,
      available: () => ['qemu'],
      list: () => Promise.resolve(isThere ? [domain] : []),
      look: () => Promise.resolve([]),
      find: () => Promise.resolve(domain),
      mark: () => Promise.resolve(),
      remove: () => Promise.resolve(void (isThere = false)),
    } as unknown as Hypervisor; // as above
    const systems = scope.use(
      new TargetSystems({
        ...{ clock, log: silentLog, workspace, installationId },
        hosts: oneHost(host, silentLog),
        images: {} as ImageSource & ImageSearch,
        store: createTargetStore(database),
        volumes: {
          store: createVolumeStore(database),
          limits: { volumes: 1, volumeMiB: 1, perUser: 1 },
        },
        ...{ bootTimeoutMs: 1_000, heartbeatMs: 1_000 },
        limits: { cpus: 1, memoryMiB: 512, perUser: 1 },
      }),
    );
    await systems.start();
    const volumes = systems.volumes!;
    await until('it is found again', () => {
      clock.advance(30_001); // until hosts are compared the next time
      return systems.list().length > 0;
    });
    assert.equal(systems.get(id).volumes?.[0]?.wasUsed, true);
    assert.equal(setupOf(systems.get(id))?.volumes[0]?.isNew, false);
    assert.equal(volumes.records.get(volumeId).attachedTo, id);
    await assert.rejects(volumes.destroy(volumeId), { code: 'CONFLICT' });
    await systems.destroy(id);
    await until('it is free', () => volumes.records.get(volumeId).attachedTo === undefined);
    const disk = join(directory, 'volumes', `${volumeId}.raw`);
    rmSync(disk);
    mkdirSync(disk);
    await assert.rejects(volumes.destroy(volumeId), { code: 'ERR_FS_EISDIR' });
    rmdirSync(disk);
    await until('its removal is done again', () => {
      clock.advance(1_001);
      return volumes.records.find(volumeId) === undefined;
    });
    assert.deepEqual(readdirSync(join(directory, 'volumes')), []);
  });
});
