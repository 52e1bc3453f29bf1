import assert from 'node:assert/strict';
import {
  existsSync,
  lstatSync,
  mkdirSync,
  rmdirSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { silentLog as log } from '#kernel/log.js';
import { openDatabase, type Database } from '#kernel/persistence/database.js';
import { migrate } from '#kernel/persistence/migrate.js';
import { Scope } from '#kernel/scope.js';
import { createTargetStore, targetMigrations } from '#xnjs/persistence/sql-target-store.js';
import { jobMigrations } from '#xnjs/persistence/job-models.js';
import { createVolumeStore } from '#xnjs/persistence/sql-volume-store.js';
import { domainXml } from '#xnjs/vm/domain-xml.js';
import { GridError } from '#kernel/errors.js';
import { Reaper } from '#xnjs/reaper.js';
import { Creation, type CreationOptions } from '#xnjs/vm/creation.js';
import type { Quota } from '#xnjs/vm/placement/quota.js';
import type { TargetSystem } from '#xnjs/vm/target-system.js';
import { jobVariables, setupOf } from '#xnjs/vm/context/machine-setup.js';
import { isCopyable } from '#xnjs/vm/tiers/template.js';
import { chooseVolumes } from '#xnjs/vm/volumes/choose-volumes.js';
import { VolumeFiles } from '#xnjs/vm/volumes/volume-files.js';
import type { MachineVolume, Volume } from '#xnjs/vm/volumes/volume.js';
import { readVolumes } from '#xnjs/vm/volumes/volume-wish.js';
import { Volumes } from '#xnjs/vm/volumes/volumes.js';
import { Workspace } from '#xnjs/vm/workspace.js';
import { ShiftedClock } from '../../targetsystem/shifted-clock.js';
import { scratch } from '../job/rig.js';
import { anImageMetadata, aTargetSystem } from './samples.js';

const ownerDn = aTargetSystem().ownerDn;
const kept: Volume = {
  ...{ id: '6f1c5a52-8a2e-4c55-9a0b-0c1d2e3f4a5b', ownerDn, name: 'results', sizeMiB: 64 },
  ...{ tags: [], createdMs: 0 },
};
const limits = { volumes: 3, volumeMiB: 1_024 };
const choose = (given: unknown, metadata = anImageMetadata()) =>
  chooseVolumes(readVolumes('volumes', given), metadata, limits, (reference) =>
    [kept.id, kept.name].includes(reference) ? kept : undefined,
  );

describe('the volumes that are asked for', () => {
  const data = { name: 'data', sizeMiB: 8 };
  const refusals: [string, unknown, RegExp][] = [
    ['no list', { name: 'data' }, /^volumes: must be a list/],
    ['more than a machine has', Array.from({ length: 4 }, (_, i) => ({ name: `d${i}`, sizeMiB: 1 })), /^volumes: a target system has at most 3/],
    ['more than can be', Array(9).fill(data), /^volumes: must not be more than 8/],
    ['a name that is no serial', [{ ...data, name: 'My Data' }], /^volumes\.0\.name: must be a small letter/],
    ['one without a size', [data, { name: 'x' }], /^volumes\.1\.sizeMiB: /],
    ['one that is too large', [{ ...data, sizeMiB: 2_000 }], /^volumes\.0\.sizeMiB: 2000 MiB is above 1024/],
    ['an unknown member', [{ ...data, colour: 'red' }], /^volumes\.0: .*colour/],
    ['the same name twice', [data, { ...data, path: '/data' }], /^volumes\.1\.name: another is called data/],
    ['one in another', [data, { name: 'b', sizeMiB: 1, path: '/mnt/data/b' }], /^volumes\.1\.path: .*not apart from \/mnt\/data/],
    ['one that there is not', [{ volume: 'none' }], /^volumes\.0\.volume: you have no volume none/],
    ['the same one twice', [{ volume: 'results' }, { volume: kept.id, name: 'b' }], /^volumes\.1\.volume: it is there twice/],
    ['a new one of a name that is taken', [{ ...data, name: 'results', keep: true }], /^volumes\.0\.name: you have a volume results/],
  ]; // prettier-ignore
  for (const [what, given, message] of refusals)
    it(`are refused: ${what}`, () => assert.throws(() => choose(given), { message }));

  for (const path of ['/etc', '/usr/lib', '/mnt', '/mnt/../etc', '/mnt/.x', '/mnt/a//b', 'mnt/a', '/root', '/mnt/a b', '/home/grid'])
    it(`are not mounted where the system trusts what is there: ${path}`, () =>
      assert.throws(() => choose([{ ...data, path }]), { code: 'BAD_REQUEST', message: /^volumes\.0\.path: must be below/ })); // prettier-ignore

  it('are refused to containers', () => {
    const metadata = anImageMetadata({ format: 'rootfs' });
    assert.throws(() => choose([data], metadata), { message: 'volumes: containers have no disks' });
  });

  it('have a place where none is named, and those that are kept an id', () => {
    const { volumes, newVolumes } = choose([
      data,
      { name: 'more', sizeMiB: 16, path: '/srv/more', keep: true },
      { volume: 'results', name: 'old' },
    ]);
    const [first, second, third] = volumes;
    assert.deepEqual(first, { ...data, path: '/mnt/data' });
    assert.deepEqual([second!.path, [second!.volumeId]], ['/srv/more', newVolumes]);
    assert.deepEqual(third, { name: 'old', sizeMiB: 64, path: '/mnt/old', volumeId: kept.id });
  });

  it('are disks with serials, found by jobs as their machine reports them', () => {
    const volumes = [{ ...data, path: '/data' }, { ...data, name: 'raw', path: '/mnt/raw', wasUsed: true }] as const; // prettier-ignore
    const system = aTargetSystem({ volumes, parameters: { ...aTargetSystem().parameters, diskIops: 50 } }); // prettier-ignore
    const paths = { console: '/c', kernel: '/k', initrd: '/i', agentSocket: '/s' };
    const files = volumes.map(({ name }) => ({ name, file: `/v/${name}` }));
    const xml = domainXml(system, { ...paths, volumes: files }, 'x');
    assert.match(xml, /type="raw"[^]*<source file="\/v\/data"\/><target dev="vdb"[^]*<total_iops_sec>50<[^]*<serial>data<\/serial>/); // prettier-ignore
    assert.match(xml, /<target dev="vdc"[^]*<serial>raw<\/serial>/);
    const wish = setupOf(system);
    assert.deepEqual(wish?.volumes.map(({ isNew }) => isNew), [true, false]); // prettier-ignore
    const report = [{ serial: 'data', device: '/dev/vda', path: '/data' }, { serial: 'raw', device: '/dev/vdb', problem: 'no' }]; // prettier-ignore
    const told = { ...system, setup: { volumes: report } };
    assert.deepEqual(jobVariables(told), { VSITE_VOLUME_data: '/data', VSITE_VOLUME_raw: '/dev/vdb' }); // prettier-ignore
    assert.deepEqual(setupOf(told)?.volumes.map(({ isNew }) => isNew), [false, false]); // prettier-ignore
    assert.equal(isCopyable(system), 'machines with volumes are not copied');
    assert.equal(jobVariables(system)['VSITE_VOLUME_raw'], '/dev/disk/by-id/virtio-raw');
  });
});

describe('volumes that outlive machines', () => {
  const scope = new Scope();
  let database: Database;
  let directory: string;
  const quotas: Quota[] = [
    { scope: { kind: 'user', name: ownerDn }, allowed: { diskMiB: 100, targetSystems: 5 } },
  ];
  before(async () => {
    directory = scratch(scope);
    database = scope.use(
      await openDatabase({ url: `sqlite:${join(directory, 'db.sqlite')}`, log }),
    );
    await migrate(database, 'xnjs', [...targetMigrations, ...jobMigrations], log);
  });
  after(() => scope.close());

  const clock = new ShiftedClock();
  /** Else they have told that they have no domain of ours. */
  let areAllSilent = false;
  const reap = async (volumes: Volumes): Promise<void> => {
    await new Reaper({ clock, log, intervalMs: 1_000 }, volumes.unsettled()).reap();
  };

  /** As a server finds them that has just started. */
  const open = async (systems: readonly TargetSystem[] = []): Promise<Volumes> => {
    const ids = new Set(systems.map(({ id }) => id));
    const volumes = new Volumes({
      targets: {
        isKnown: (id) => ids.has(id),
        isStored: (id) => createTargetStore(database).has(id),
        isNowhere: () => !areAllSilent,
      },
      store: createVolumeStore(database),
      files: new VolumeFiles(join(directory, 'volumes')),
      ...{ perUser: 3, largestMiB: 200, quotasFor: () => quotas, clock, log },
      require: () => Promise.resolve(),
    });
    await volumes.load(systems);
    return volumes;
  };
  const fileOf = (id: string): string => join(directory, 'volumes', `${id}.raw`);
  const machineWith = (volume: Partial<MachineVolume> & { readonly volumeId: string }) =>
    aTargetSystem({ volumes: [{ name: 'data', sizeMiB: 10, path: '/mnt/data', ...volume }] });
  const prepare = async ({ id, volumes = [] }: TargetSystem): Promise<void> => {
    await new VolumeFiles(join(directory, 'volumes')).prepare(volumes, directory, id);
  };
  const empty = async (): Promise<void> => {
    const volumes = await open();
    for (const { id } of [...volumes.records.all()]) await volumes.destroy(id);
  };

  it('have names of their own, and count on quotas of disk and number', async () => {
    const volumes = await open();
    const { id } = await volumes.create({ ownerDn, name: 'a', sizeMiB: 60 });
    await assert.rejects(volumes.create({ ownerDn, name: 'a', sizeMiB: 1 }), { code: 'CONFLICT' });
    const large = volumes.create({ ownerDn, name: 'b', sizeMiB: 50 });
    await assert.rejects(large, { code: 'QUOTA_EXCEEDED', message: /diskMiB: 60 used, 50 asked/ });
    await assert.rejects(volumes.create({ ownerDn, name: 'b', sizeMiB: 201 }), { code: 'BAD_REQUEST' }); // prettier-ignore
    const used = await createTargetStore(database).used({ kind: 'user', name: ownerDn });
    assert.deepEqual([used.diskMiB, used.targetSystems], [60, 0]);
    await volumes.create({ ownerDn, name: 'b', sizeMiB: 1 });
    await volumes.create({ ownerDn, name: 'c', sizeMiB: 1 });
    await assert.rejects(volumes.create({ ownerDn, name: 'd', sizeMiB: 1 }), { code: 'LIMIT_REACHED' }); // prettier-ignore
    assert.equal((await open()).findOf(ownerDn, 'a')?.id, id, 'another server finds them');
    assert.equal((await open()).findOf('CN=Other', 'a'), undefined);
    await empty();
    assert.deepEqual(await createVolumeStore(database).all(), []);
  });

  it('are one machine’s at a time, until that is gone', async () => {
    const volumes = await open();
    const { id } = await volumes.create({ ownerDn, name: 'data', sizeMiB: 10 });
    const one = machineWith({ volumeId: id });
    const other = { ...one, id: '00000000-0000-4000-8000-000000000001' };
    const results = await Promise.allSettled([volumes.attach(one, []), volumes.attach(other, [])]);
    assert.deepEqual(results.map(({ status }) => status), ['fulfilled', 'rejected']); // prettier-ignore
    await assert.rejects(volumes.destroy(id), { code: 'CONFLICT', message: /in use by/ });
    await prepare(one);
    assert.equal(statSync(fileOf(id)).size, 10 * 1024 * 1024);
    writeFileSync(fileOf(id), 'x', { flag: 'r+' });
    const next = await open([one]);
    await assert.rejects(next.attach(other, []), { code: 'CONFLICT' });
    await next.release(one.id);
    assert.equal(next.records.get(id).wasUsed, true);
    await next.attach(other, []);
    await next.release(other.id);
    rmSync(fileOf(id));
    await assert.rejects(prepare(machineWith({ volumeId: id, wasUsed: true })), /is gone/);
    await empty();
  });

  it('are never replaced by an empty disk: not when nobody can tell, nor for the next machine', async () => {
    const { id } = aTargetSystem();
    const first = machineWith({ volumeId: id });
    mkdirSync(join(directory, 'volumes'), { recursive: true });
    symlinkSync(fileOf(id), fileOf(id));
    await assert.rejects(prepare(first), { code: 'ELOOP' });
    assert.ok(lstatSync(fileOf(id)).isSymbolicLink());
    rmSync(fileOf(id));
    const files = new Workspace(directory);
    const parts = { kernel: join(directory, 'db.sqlite'), initrd: join(directory, 'db.sqlite') };
    for (const later of [{ generation: 2 }, { setup: { volumes: [] } }]) {
      const machine = { ...first, ...later };
      await assert.rejects(files.prepare(machine, parts), {
        code: 'NOT_FOUND',
        message: /is gone/,
      });
      assert.deepEqual(setupOf(machine)?.volumes.map(({ isNew }) => isNew), [false]); // prettier-ignore
    }
    await files.prepare(first, parts);
    await files.prepare({ ...first, generation: 2 }, parts);
    await new VolumeFiles(join(directory, 'volumes')).remove(id);
    await files.remove(id);
  });

  it('leave nothing where the target system that they are made with does not come to be', async () => {
    const volumes = await open();
    const { id: taken } = await volumes.create({ ownerDn, name: 'taken', sizeMiB: 1 });
    await volumes.attach(machineWith({ name: 'taken', volumeId: taken }), []);
    const wish = aTargetSystem({
      id: '00000000-0000-4000-8000-000000000002',
      volumes: [
        { name: 'new', sizeMiB: 1, path: '/mnt/new', volumeId: kept.id },
        { name: 'taken', sizeMiB: 1, path: '/mnt/taken', volumeId: taken },
      ],
    });
    await assert.rejects(volumes.attach(wish, [kept.id]), { code: 'CONFLICT' });
    assert.equal(volumes.records.find(kept.id), undefined);
    await volumes.release(aTargetSystem().id);
    // killed between that and the record of the target system
    await volumes.attach(wish, [kept.id]);
    const next = await open([]);
    assert.equal(next.records.find(kept.id), undefined);
    assert.equal(next.records.get(taken).attachedTo, undefined);
    // killed after: it is there, and stays when its first machine is gone
    await next.attach(wish, [kept.id]);
    const last = await open([wish]);
    assert.equal(last.records.get(kept.id).attachedTo, wish.id);
    await prepare(wish);
    await last.release(wish.id);
    assert.ok(existsSync(fileOf(kept.id)));
    assert.equal((await open([])).records.get(kept.id).wasUsed, true);
    await empty();
    assert.ok(!existsSync(fileOf(kept.id)));
  });

  it('are removed whole, also after a crash in the middle', async () => {
    const volumes = await open();
    const { id } = await volumes.create({ ownerDn, name: 'data', sizeMiB: 1 });
    await prepare(machineWith({ volumeId: id }));
    const store = createVolumeStore(database);
    await store.save({ ...volumes.records.get(id), isRemoving: true });
    await open();
    assert.ok(!existsSync(fileOf(id)));
    assert.deepEqual(await store.all(), []);
  });

  it('are removed by the reaper where their removal has failed', async () => {
    const volumes = await open();
    const { id } = await volumes.create({ ownerDn, name: 'data', sizeMiB: 1 });
    mkdirSync(fileOf(id), { recursive: true });
    await assert.rejects(volumes.destroy(id), { code: 'ERR_FS_EISDIR' });
    await reap(volumes);
    assert.equal((await createVolumeStore(database).all()).length, 1);
    rmdirSync(fileOf(id));
    await reap(volumes);
    assert.deepEqual(await createVolumeStore(database).all(), []);
    assert.deepEqual([...volumes.records.all()], []);
  });

  it('are free, or gone, soon after their target system could not be stored, if it was not', async () => {
    const volumes = await open();
    const { id: taken } = await volumes.create({ ownerDn, name: 'taken', sizeMiB: 1 });
    const names = ['new', 'taken'];
    const plan = {
      ...{ image: aTargetSystem().image, newVolumes: [kept.id], quotas: [] },
      volumes: [kept.id, taken].map((volumeId, at) => ({ name: names[at]!, sizeMiB: 1, path: `/mnt/${names[at]}`, volumeId })), // prettier-ignore
    };
    let isStored = false;
    // fakes beside the volumes
    const creation = new Creation({
      ...{ volumes, log, systems: { clock }, planner: { plan: () => Promise.resolve(plan) } },
      places: { hold: () => ({ release: () => undefined }) },
      records: {
        save: async (record: TargetSystem) => {
          if (isStored) await createTargetStore(database).save(record);
          throw new GridError('DATABASE_UNAVAILABLE', 'the answer was lost');
        },
      },
    } as unknown as CreationOptions);
    const fail = async (): Promise<void> => {
      const wish = { ownerDn, image: 'i', parameters: {}, tags: [] };
      await assert.rejects(creation.create(wish), { code: 'DATABASE_UNAVAILABLE' });
      await reap(volumes);
      assert.ok(volumes.records.get(taken).attachedTo, 'it may be stored yet');
      clock.advance(60_000);
      await reap(volumes);
    };
    await fail();
    assert.equal(volumes.records.get(taken).attachedTo, undefined);
    assert.equal(volumes.records.find(kept.id), undefined);
    isStored = true;
    await fail();
    const id = volumes.records.get(taken).attachedTo!;
    assert.equal(volumes.records.get(kept.id).attachedTo, id);
    await createTargetStore(database).remove({ id, ownerDn });
    await reap(volumes);
    await empty();
  });

  it('are the machine’s that has them, though the database is older than that', async () => {
    const volumes = await open();
    const { id } = await volumes.create({ ownerDn, name: 'data', sizeMiB: 1 });
    const machine = machineWith({ volumeId: id });
    const other = { ...machine, id: '00000000-0000-4000-8000-000000000003' };
    await prepare(machine);
    // before anybody has looked, too
    await assert.rejects(volumes.destroy(id), { code: 'CONFLICT' });
    await assert.rejects(volumes.attach(other, []), { code: 'CONFLICT' });
    await assert.rejects(prepare(other), { code: 'CONFLICT' });
    areAllSilent = true;
    const restored = await open([other]);
    await reap(restored);
    assert.equal(restored.records.get(id).attachedTo, machine.id);
    await restored.release(other.id);
    await assert.rejects(restored.destroy(id), { code: 'CONFLICT' });
    areAllSilent = false;
    await reap(restored);
    const { attachedTo, wasUsed } = restored.records.get(id);
    assert.deepEqual([attachedTo, wasUsed], [undefined, true]);
    await prepare(other);
    await restored.restore(other);
    await restored.release(other.id);
    await empty();
  });

  it('belong to a machine that has them, though the database has lost them', async () => {
    const machine = machineWith({ volumeId: kept.id });
    const volumes = await open([machine]);
    assert.equal(volumes.records.get(kept.id).attachedTo, machine.id);
    await volumes.release(machine.id);
    await empty();
  });
});
