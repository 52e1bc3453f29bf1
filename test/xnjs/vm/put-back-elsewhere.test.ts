import assert from 'node:assert/strict';
import { mkdirSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { silentLog as log } from '#kernel/log.js';
import { Scope } from '#kernel/scope.js';
import { createSettingsStore } from '#xnjs/persistence/settings-store.js';
import { createTargetStore } from '#xnjs/persistence/sql-target-store.js';
import { Hosts } from '#xnjs/vm/hosts/hosts.js';
import { lossesIn } from '#xnjs/vm/hosts/open-hosts.js';
import type { ImageSearch, ImageSource } from '#xnjs/vm/image-source.js';
import { fingerprint } from '#xnjs/vm/parking.js';
import { QuotaConfig } from '#xnjs/vm/placement/quota.js';
import { plainUser } from '#xnjs/vm/placement/requester.js';
import type { TargetSystem } from '#xnjs/vm/target-system.js';
import { TargetSystems } from '#xnjs/vm/target-systems.js';
import { Workspace } from '#xnjs/vm/workspace.js';
import { ShiftedClock } from '../../targetsystem/shifted-clock.js';
import { scratch, until } from '../job/rig.js';
import { openTables } from '../persistence/databases.js';
import { aHost, away, equal } from './fake-host.js';
import { anImageMetadata, aSnapshot, aTargetSystem, plainHost } from './samples.js';

const snapshot = aSnapshot({ host: fingerprint(equal) });
/** It was on the host that is declared lost. */
const lost = aTargetSystem({ host: 'north', state: 'FAILED', snapshots: [snapshot] });
/** Its cores and memory count: it can be put back where it is. */
const other = aTargetSystem({ id: lost.id.replace('5', '6'), state: 'FAILED' });

/** A user's two target systems of two cores each; the host of one is lost, its snapshot is in files that hosts share. */
async function aSite(scope: Scope, cpus: number, first = lost) {
  const directory = scratch(scope);
  const kept = join(directory, 'vms', lost.id, 'snapshots', snapshot.id);
  mkdirSync(kept, { recursive: true });
  writeFileSync(join(kept, 'memory'), 'LibvirtQemudSave of the snapshot'.repeat(200));
  const database = await openTables(scope, `sqlite:${join(directory, 'db.sqlite')}`);
  const store = createTargetStore(database);
  for (const record of [first, other]) await store.save(record, undefined, []);
  const hosts = new Hosts({
    hosts: [
      { ...plainHost, name: 'local', hypervisor: aHost(true).hypervisor },
      { ...plainHost, name: 'north', hypervisor: aHost(false).hypervisor },
    ],
    losses: lossesIn(createSettingsStore(database)),
    log,
  });
  await hosts.start();
  const systems = scope.use(
    new TargetSystems({
      ...{ store, hosts, log, clock: new ShiftedClock(), workspace: new Workspace(directory) },
      installationId: '11111111-2222-4333-8444-555555555555',
      images: { isHere: () => Promise.reject(away()) } as unknown as ImageSource & ImageSearch, // no other call
      ...{ bootTimeoutMs: 1e9, heartbeatMs: 1_000 },
      limits: { cpus: 4, memoryMiB: 4096, perUser: 99 },
      placement: { quota: QuotaConfig.parse({ user: { cpus } }) },
    }),
  );
  await systems.start();
  await systems.lostHosts.declare('north', 'CN=Admin,O=Grid');
  const usedCpus = async (): Promise<number | undefined> =>
    (await systems.planner.quotaOf(lost.ownerDn, plainUser))[0]?.used.cpus;
  const revert = () => systems.snapshots.revert(lost.id, snapshot.id);
  const told = (): Partial<TargetSystem> => {
    const { state, host, lostWithHost } = systems.get(lost.id);
    return { state, host, ...(lostWithHost && { lostWithHost }) };
  };
  return { machines: join(directory, 'vms'), systems, usedCpus, revert, told };
}

describe('a target system whose host is lost, and that is put back elsewhere', () => {
  it('needs its cores and memory on quotas again; else it is refused, and stays as it is', async () => {
    await using scope = new Scope();
    const { systems, usedCpus, revert, told } = await aSite(scope, 3);
    assert.equal(await usedCpus(), 2, 'that of the other');
    const held = systems.places.used('local');
    await assert.rejects(revert, {
      code: 'QUOTA_EXCEEDED',
      message: /cpus: 2 used, 2 asked for, 3 allowed/,
    });
    assert.deepEqual(told(), { state: 'FAILED', host: 'north', lostWithHost: 'machine' });
    assert.equal(await usedCpus(), 2);
    assert.deepEqual(systems.places.used('local'), held, 'no room is kept for it');
    await systems.destroy(other.id);
    await until('the other is gone', () => systems.list().length === 1);
    await revert();
    assert.deepEqual(told(), { state: 'PAUSED', host: 'local' });
    assert.equal(await usedCpus(), 2);
  });

  it('has lost its snapshot only where that is seen to be gone: files out of reach are waited for', async () => {
    await using scope = new Scope();
    const { machines, revert, told } = await aSite(scope, 4);
    const away = { code: 'HYPERVISOR_UNAVAILABLE', message: /cannot be reached/ };
    const files = join(machines, lost.id, 'snapshots');
    renameSync(files, `${files}.away`);
    // any error but that there is none
    symlinkSync(files, files);
    await assert.rejects(revert, away);
    rmSync(files);
    await assert.rejects(revert, { code: 'CONFLICT', message: /was lost with host north/ });
    renameSync(`${files}.away`, files);
    renameSync(machines, `${machines}.away`);
    await assert.rejects(revert, away, 'it is not mounted');
    renameSync(`${machines}.away`, machines);
    await revert();
    assert.equal(told().host, 'local');
  });

  it('without a snapshot can have one taken of its disk, and boots from that', async () => {
    await using scope = new Scope();
    const image = { id: 'i', metadata: anImageMetadata({ format: 'qcow2' }), parts: {} };
    const { machines, systems, told } = await aSite(scope, 4, { ...lost, image, snapshots: [] });
    writeFileSync(join(machines, lost.id, 'overlay.qcow2'), 'what it has written');
    const { id } = await systems.snapshots.take(lost.id, 'its disk');
    await until('it is taken', () => systems.snapshots.get(lost.id, id).state === 'READY');
    await until('that is over', () => systems.get(lost.id).undertaking === undefined);
    await systems.snapshots.revert(lost.id, id);
    await until('its former machine is gone', () => systems.get(lost.id).reverted !== undefined);
    await systems.settled(lost.id, { reverted: systems.get(lost.id).reverted! });
    await until('it boots', () => systems.get(lost.id).state === 'INITIALIZING');
    assert.equal(told().host, 'local');
  });
});
