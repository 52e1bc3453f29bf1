import assert from 'node:assert/strict';
import { mkdirSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { silentLog as log } from '#kernel/log.js';
import { Scope } from '#kernel/scope.js';
import { toXml } from '#kernel/xml/build.js';
import { createTargetStore } from '#xnjs/persistence/sql-target-store.js';
import { createRecordStores } from '#xnjs/persistence/sql-record-store.js';
import { createSettingsStore } from '#xnjs/persistence/settings-store.js';
import { markElement, readMark } from '#xnjs/vm/domain-mark.js';
import { Hosts } from '#xnjs/vm/hosts/hosts.js';
import { lossesIn } from '#xnjs/vm/hosts/open-hosts.js';
import type { HostStorage } from '#xnjs/vm/hosts/storage/host-storage.js';
import type { ImageSearch, ImageSource } from '#xnjs/vm/image-source.js';
import { TargetSystems } from '#xnjs/vm/target-systems.js';
import { WarmConfig } from '#xnjs/vm/tiers/config.js';
import { kindOf } from '#xnjs/vm/tiers/kinds.js';
import { specOf } from '#xnjs/vm/tiers/same-machine.js';
import { fingerprintOf, type Template } from '#xnjs/vm/tiers/template.js';
import { Workspace } from '#xnjs/vm/workspace.js';
import { ShiftedClock } from '../../targetsystem/shifted-clock.js';
import { scratch, until } from '../job/rig.js';
import { openTables } from '../persistence/databases.js';
import { aHost, away, equal } from './fake-host.js';
import { anImageMetadata, aTargetSystem, plainHost } from './samples.js';

const installationId = '11111111-2222-4333-8444-555555555555';
const image = { id: 'i', metadata: anImageMetadata({ format: 'kernel' }), parts: {} };

function aTemplate(first: string, host: string, changes: Partial<Template>): Template {
  const { id, ownerDn, tags, parameters } = aTargetSystem();
  const machine = { id: first + id.slice(1), image, parameters, driver: 'qemu', host } as const;
  const fingerprint = fingerprintOf(machine, equal);
  const about = { ownerDn, tags, createdMs: 0, kind: kindOf(equal), fingerprint };
  return { ...machine, ...about, ...changes };
}
const saved = { patches: [], bootId: 'b' };
const inPool = aTemplate('a', 'north', { ...saved, place: 'north p' });
const beginning = aTemplate('b', 'north', { place: 'north p' });
const inFiles = aTemplate('c', 'south', saved);
const beginningInFiles = aTemplate('d', 'south', {});
const ofNoHost = aTemplate('e', 'removed from the configuration', { ...saved, place: 'r p' });
const all = [inPool, beginning, inFiles, beginningInFiles, ofNoHost];
const idsOf = (some: readonly Template[]): string[] => some.map(({ id }) => id).sort();

describe('saved memory of a host that is declared lost', { timeout: 60_000 }, () => {
  const scope = new Scope();
  const clock = new ShiftedClock();
  const [local, north, south] = [aHost(true), aHost(false), aHost(false)];
  /** Whose volumes are in the pool of `north`. */
  const volumes = new Set(idsOf([inPool, beginning]));
  let directory = '';
  let systems: TargetSystems;
  let records: () => Promise<string[]>;

  before(async () => {
    directory = scratch(scope);
    for (const id of idsOf([inFiles, beginningInFiles]))
      mkdirSync(join(directory, 'vms', id), { recursive: true });
    const database = await openTables(scope, `sqlite:${join(directory, 'db.sqlite')}`);
    const store = createRecordStores(database)<Template>('template');
    for (const template of all) await store.save(template);
    records = async () => idsOf(await store.all());
    const reach = <T>(value: T): Promise<T> =>
      north.isUp ? Promise.resolve(value) : Promise.reject(away());
    const storage = {
      ...{ status: { pool: 'p' }, hasImage: () => false, load: () => Promise.resolve() },
      ...{ follow: () => undefined, check: () => Promise.resolve() },
      recheck: () => Promise.resolve(),
      remove: (id: string) => reach(volumes.delete(id)),
      async sweep(isGone: (id: string) => Promise<boolean>) {
        for (const id of [...volumes]) if (await reach(isGone(id))) volumes.delete(id);
      },
      memory: { copies: () => reach([]), copy: () => reach(undefined) },
    } as unknown as HostStorage; // the calls that are made are above
    const hosts = new Hosts({
      hosts: [
        { ...plainHost, name: 'local', hypervisor: local.hypervisor },
        { ...plainHost, name: 'north', hypervisor: north.hypervisor, storage },
        { ...plainHost, name: 'south', hypervisor: south.hypervisor },
      ],
      losses: lossesIn(createSettingsStore(database)),
      log,
    });
    await hosts.start();
    systems = scope.use(
      new TargetSystems({
        ...{ store: createTargetStore(database), hosts, clock, log, installationId },
        workspace: new Workspace(directory),
        images: { search: () => Promise.resolve([]) } as unknown as ImageSource & ImageSearch,
        warm: { store, config: WarmConfig.parse({ maxImages: 9 }), availableMiB: () => 0 },
        ...{ bootTimeoutMs: 1e9, heartbeatMs: 1_000 },
        limits: { cpus: 4, memoryMiB: 4096, perUser: 99 },
      }),
    );
    await systems.start();
  });
  after(() => scope.close());

  const becomes = async (what: string, isSo: () => Promise<boolean>): Promise<void> =>
    until(what, () => {
      clock.advance(30_001);
      return isSo();
    });
  const areKept = (kept: readonly Template[]): Promise<void> =>
    becomes('they are forgotten', async () => String(await records()) === String(idsOf(kept)));

  it('stays on record while nobody has said so', async () => {
    for (let turn = 0; turn < 3; turn++) await areKept(all);
  });

  it('is forgotten, with what was being saved there; what hosts share stays', async () => {
    await systems.lostHosts.declare('north', 'CN=Admin');
    await areKept([inFiles, beginningInFiles, ofNoHost]);
    await systems.lostHosts.declare('south', 'CN=Admin');
    await areKept([inFiles, ofNoHost]);
    assert.deepEqual(readdirSync(join(directory, 'vms')), [inFiles.id]);
    assert.deepEqual([...volumes].sort(), idsOf([inPool, beginning]), 'nobody can have asked');
  });

  it('is forgotten too of a host that is not configured any more', async () => {
    await systems.lostHosts.declare(ofNoHost.host, 'CN=Admin');
    await areKept([inFiles]);
  });

  it('is removed when it turns up, after a time of grace, or when the host is taken back', async () => {
    const mark = readMark(toXml(markElement(specOf(beginning), installationId, 1)))!;
    north.domains = [{ id: beginning.id, state: 'running', reason: '', mark }];
    [north.isUp, south.isUp] = [true, true];
    await becomes('its machine is gone', () => Promise.resolve(north.domains.length === 0));
    assert.deepEqual([...volumes], [inPool.id], 'with its volumes');
    await systems.lostHosts.takeBack('north');
    await systems.lostHosts.takeBack('south');
    await becomes('its files are', () => Promise.resolve(volumes.size === 0));
    assert.deepEqual(systems.orphans, []);
    await areKept([inFiles]);
    assert.deepEqual(readdirSync(join(directory, 'vms')), [inFiles.id]);
  });
});
