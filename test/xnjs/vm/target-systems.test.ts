import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { GridError } from '#kernel/errors.js';
import { silentLog } from '#kernel/log.js';
import { Scope } from '#kernel/scope.js';
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
      wasRemoved: () => Promise.resolve(false),
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
});
