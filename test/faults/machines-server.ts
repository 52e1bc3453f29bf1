/**
 * Target systems in a process of its own, to be killed: each is held at the point that its tag names.
 * Arguments: directory, URI of libvirt, disk of the machines, `hold` or `settle`, and `one` host or `two`: what is
 * parked is somewhere else then. The second host is never there; or `pool`: the only one has storage of its own, in
 * a pool of that name. Last: at which points (`machine-points.ts`).
 */
import assert from 'node:assert/strict';
import { connect } from 'node:net';
import { join } from 'node:path';
import { systemClock } from '#kernel/clock.js';
import { LibvirtClient } from '#kernel/libvirt/client.js';
import { silentLog as log } from '#kernel/log.js';
import { migrate } from '#kernel/persistence/migrate.js';
import { Scope } from '#kernel/scope.js';
import { createSettingsStore, settingsMigrations } from '#xnjs/persistence/settings-store.js';
import { Lease } from '#xnjs/persistence/sql-lease.js';
import { createTargetStore } from '#xnjs/persistence/sql-target-store.js';
import { createVolumeStore } from '#xnjs/persistence/sql-volume-store.js';
import { localHost } from '#xnjs/vm/hosts/host.js';
import { Hosts, oneHost } from '#xnjs/vm/hosts/hosts.js';
import { copiesIn } from '#xnjs/vm/hosts/open-hosts.js';
import { HostStorage } from '#xnjs/vm/hosts/storage/host-storage.js';
import type { Hypervisor } from '#xnjs/vm/hypervisor.js';
import { LibvirtHypervisor } from '#xnjs/vm/libvirt-hypervisor.js';
import type { TargetStore } from '#xnjs/vm/target-store.js';
import type { TargetSystem } from '#xnjs/vm/target-system.js';
import { TargetSystems } from '#xnjs/vm/target-systems.js';
import type { Volume } from '#xnjs/vm/volumes/volume.js';
import type { VolumeStore } from '#xnjs/vm/volumes/volumes.js';
import { Workspace } from '#xnjs/vm/workspace.js';
import { until } from '../xnjs/job/rig.js';
import { openTables } from '../xnjs/persistence/databases.js';
import { anImageMetadata } from '../xnjs/vm/samples.js';
import { contentsOf } from './north.js';
import { points as allPoints, type Point } from './machine-points.js';

const [directory = '', uri = '', disk = '', mode = 'hold', hosts = 'one', which = 'lives'] =
  process.argv.slice(2);
const points: readonly Point[] = allPoints[which as keyof typeof allPoints];
const installationId = '11111111-2222-4333-8444-555555555555';
const isHolding = mode === 'hold';

/** Those that are where they are to be when the server dies. */
const held = new Set<string>();
const pointOf = new Map<string, Point>();

/** Never returns where the target system of this id is to be held. */
async function pass(id: string, point: Point): Promise<void> {
  if (!isHolding || pointOf.get(id) !== point) return;
  held.add(point);
  await new Promise(() => undefined);
}

/** Their agent is a fake beside the machines, which have no system: only the machines are tried here. */
class Files extends Workspace {
  override agentSocket(): string {
    return join(directory, 'agents.sock');
  }

  override async prepare(...args: Parameters<Workspace['prepare']>) {
    const paths = await super.prepare(...args);
    return { ...paths, agentSocket: join(this.directoryOf(args[0].id), 'run', 'unused.sock') };
  }
}

function gatedStore(store: TargetStore): TargetStore {
  return {
    ...store,
    async save(system, change) {
      const [point] = system.tags as Point[];
      if (point) pointOf.set(system.id, point);
      await store.save(system, change);
      if (system.state === 'INITIALIZING' && system.boot.startedMs === undefined)
        await pass(system.id, 'create: stored');
      if (system.desired === 'suspended')
        await pass(system.id, system.state === 'PAUSED' ? 'freeze: stored' : 'freeze: done');
      if (system.state === 'UNREACHABLE') await pass(system.id, 'thaw: stored');
      if (system.state === 'DESTROYING') await pass(system.id, 'destroy: stored');
      await passUndertaking(system);
    },
    async remove(system, change) {
      await pass(system.id, 'destroy: files removed');
      await store.remove(system, change);
    },
  };
}

/** Users of their own, whose orders wait for each other. */
const ownerAt = (point: Point): string => `CN=${points.indexOf(point)},O=VSite`;
const isAt = ({ ownerDn }: Volume, point: Point): boolean => ownerDn === ownerAt(point);

function gatedVolumes(store: VolumeStore): VolumeStore {
  const hold = async (volume: Volume, point: Point): Promise<void> => {
    if (!isHolding || !isAt(volume, point)) return;
    held.add(point);
    await new Promise(() => undefined);
  };
  return {
    ...store,
    async create(volume, quotas) {
      await store.create(volume, quotas);
      await hold(volume, 'volume: stored');
    },
    async save(volume) {
      await store.save(volume);
      if (volume.isRemoving) await hold(volume, 'volume: removing');
    },
  };
}

async function passUndertaking({ id, undertaking, snapshots = [] }: TargetSystem): Promise<void> {
  if (snapshots.some(({ state }) => state === 'REMOVING')) await pass(id, 'forget: stored');
  if (undertaking?.do === 'snapshot')
    await pass(
      id,
      snapshots.at(-1)?.atMs === undefined ? 'snapshot: stored' : 'snapshot: moment stored',
    );
  if (undertaking?.do === 'revert')
    await pass(id, undertaking.isFenced ? 'revert: fenced' : 'revert: stored');
}

/** Of a pool: held where its volumes are copied, or removed. */
class GatedClient extends LibvirtClient {
  override async call(...args: Parameters<LibvirtClient['call']>): Promise<never> {
    const [name, given] = args;
    const answer = super.call(...args);
    answer.catch(() => undefined);
    const about = 'xml' in given ? given.xml : 'vol' in given ? given.vol.name : '';
    const [, id = '', what = ''] = /-vm-(.{36})-(overlay|reverted|snapshot)/.exec(about) ?? [];
    const orders: Partial<Record<string, Point>> =
      name === 'storage_vol_create_xml_from'
        ? {
            ...{ overlay: 'revert: disk copying', reverted: 'revert: disk laying' },
            snapshot: 'snapshot: disk copying',
          }
        : {};
    const point = orders[what];
    if (point) await pass(id, point);
    const result = await answer;
    if (name === 'storage_vol_delete' && what === 'snapshot')
      await pass(id, 'forget: file removed');
    return result as never; // of the type that the caller expects
  }
}

class GatedHypervisor extends LibvirtHypervisor {
  override openChannel() {
    return Promise.resolve(connect(join(directory, 'agents.sock')));
  }

  override async start(...args: Parameters<Hypervisor['start']>) {
    const started = await super.start(...args);
    await pass(args[1], 'create: started');
    return started;
  }

  override async save(...args: Parameters<Hypervisor['save']>) {
    const saving = super.save(...args);
    saving.catch(() => undefined);
    await pass(args[1], 'freeze: saving');
    const isSaved = await saving;
    await pass(args[1], 'freeze: saved');
    return isSaved;
  }

  override async saveMemory(...args: Parameters<Hypervisor['saveMemory']>) {
    const saving = super.saveMemory(...args);
    saving.catch(() => undefined);
    await pass(args[1], 'freeze: saving');
    await saving;
    await pass(args[1], 'freeze: saved');
  }

  override async restoreMemory(...args: Parameters<Hypervisor['restoreMemory']>) {
    const restored = await super.restoreMemory(...args);
    await pass(args[1], 'thaw: restored');
    return restored;
  }

  override async restore(...args: Parameters<Hypervisor['restore']>) {
    const restored = await super.restore(...args);
    for (const step of ['restored', 'resumed'] as const) await pass(args[1], `thaw: ${step}`);
    return restored;
  }

  override async saveMemoryTo(...args: Parameters<Hypervisor['saveMemoryTo']>) {
    const saving = super.saveMemoryTo(...args);
    saving.catch(() => undefined);
    await pass(args[1], 'snapshot: saving');
    const isSaved = await saving;
    await pass(args[1], 'snapshot: saved');
    await pass(args[1], 'snapshot-parked: saved');
    return isSaved;
  }

  override async startFromMemory(...args: Parameters<Hypervisor['startFromMemory']>) {
    const isReverting = systems.get(args[1]).undertaking?.do === 'revert';
    await pass(args[1], isReverting ? 'revert: disk put' : 'snapshot: disk kept');
    await super.startFromMemory(...args);
    if (isReverting) await pass(args[1], 'revert: started');
    else
      for (const kind of ['snapshot', 'snapshot-parked'] as const)
        await pass(args[1], `${kind}: started`);
  }

  override async resume(...args: Parameters<Hypervisor['resume']>) {
    const { undertaking } = systems.get(args[1]);
    await super.resume(...args);
    await pass(args[1], undertaking ? `${undertaking.do}: resumed` : 'thaw: resumed');
  }

  override async end(...args: Parameters<Hypervisor['end']>) {
    await super.end(...args);
    await pass(args[1], 'revert: ended');
  }

  override async remove(...args: Parameters<Hypervisor['remove']>) {
    await super.remove(...args);
    await pass(args[1], 'destroy: domain removed');
  }
}

const scope = new Scope();
const database = await openTables(scope, `sqlite:${join(directory, 'db.sqlite')}`);
const lease = scope.use(await Lease.take({ database, name: 'xnjs', clock: systemClock, log }));
const qemu = scope.use(await LibvirtClient.connect({ uri, log, callTimeoutMs: 60_000 }));
const metadata = anImageMetadata({
  format: 'qcow2',
  requirements: {
    cpus: { min: 1, default: 1, max: 1 },
    memoryMiB: { min: 16, default: 16, max: 64 },
  },
});
const common = { clock: systemClock, log };
const probe = scope.use(await LibvirtClient.connect({ uri, log, callTimeoutMs: 60_000 }));
const ofLibvirt = { clients: { qemu }, probes: { qemu: probe }, installationId };
const local = new GatedHypervisor({ ...ofLibvirt, ...common });
const away = new LibvirtHypervisor({ clients: {}, installationId, ...common });
const host = { labels: [], drain: false, capacity: {}, reserved: {}, drivers: ['qemu'] } as const;
const both = [
  { name: localHost, hypervisor: local, ...host },
  { name: 'away', hypervisor: away, ...host },
];
const gatedClient = scope.use(new GatedClient({ uri, log, callTimeoutMs: 60_000 }));
gatedClient.start();
await gatedClient.ready();
const settings = createSettingsStore(database);
await migrate(database, 'xnjs', settingsMigrations, log);
const storage = scope.use(
  new HostStorage({
    ...{ ...common, installationId, host: 'north', client: gatedClient, pool: 'pool' },
    ...{ maxBytes: 64 * 1024 ** 2, store: copiesIn(settings, 'north') },
  }),
);
const arrangements: Record<string, () => Hosts> = {
  one: () => oneHost(local, log),
  two: () => new Hosts({ hosts: both, log }),
  pool: () => new Hosts({ hosts: [{ ...host, name: 'north', hypervisor: local, storage }], log }),
};
const arranged = arrangements[hosts]!();
if (hosts === 'pool') await arranged.start();
const parts = { disk: await contentsOf(disk) };
const systems = scope.use(
  new TargetSystems({
    ...{ ...common, installationId, lease },
    store: gatedStore(createTargetStore(database, undefined, lease)),
    hosts: arranged,
    images: {
      find: () =>
        Promise.resolve({
          id: 'i',
          owner: 'CN=Creator',
          state: 'PUBLISHED',
          created: '',
          metadata,
          parts,
        }),
      isHere: () => Promise.resolve(true),
      search: () => Promise.resolve([]), // here all name their image
      fetch: () => Promise.resolve(disk),
    },
    workspace: new Files(directory),
    ...{ bootTimeoutMs: 60_000, heartbeatMs: 1_000 },
    limits: { cpus: 1, memoryMiB: 64, perUser: 100 },
    volumes: {
      store: gatedVolumes(createVolumeStore(database, lease)),
      limits: { volumes: 2, volumeMiB: 1, perUser: 1 },
    },
  }),
);
// there are no jobs that would have to be told
const settle = (id: string): void => {
  const { reverted } = systems.get(id);
  if (reverted) void systems.settled(id, { reverted });
};
scope.defer(systems.subscribe(({ targetId }) => settle(targetId)));
await systems.start();
for (const { id } of systems.list()) settle(id);
/** One after another: what is settled first asks for more. */
const isIdle = (id: string): boolean => {
  const { undertaking, reverted } = systems.get(id);
  if (reverted?.step === 'tidy') settle(id);
  return undertaking === undefined && reverted === undefined;
};
const becomes = (id: string, state: TargetSystem['state']): Promise<void> =>
  until(`${pointOf.get(id) ?? id} is ${state}`, () => systems.get(id).state === state, 60_000);

if (isHolding) {
  await Promise.all(points.map((point) => lead(point)));
  await until('all are held', () => held.size === points.length, 60_000);
  process.send?.('held');
} else {
  const all = systems.list();
  await Promise.all(all.map(({ id, tags }) => finish(id, tags[0] as Point)));
  await until('all are gone', () => systems.list().length === 0, 60_000);
  await settleVolumes();
  await scope.close();
  process.send?.(`settled ${all.length}`);
  process.disconnect();
}

/** What was kept is there, and nobody's any more; what never was, or was on its way out, is not. */
async function settleVolumes(): Promise<void> {
  if (which !== 'lives') return;
  const { records } = systems.volumes!;
  const all = [...records.all()];
  const stayed = points.filter((point) => all.some((volume) => isAt(volume, point)));
  assert.deepEqual(
    stayed,
    points.filter((point) => !point.startsWith('volume')),
  );
  for (const { id } of all) {
    await until('it is free', () => records.get(id).attachedTo === undefined, 60_000);
    await systems.volumes!.destroy(id);
  }
}

/** Brings one to where it is held. What is waited for on the way there may never come. */
async function lead(point: Point): Promise<void> {
  const [what] = point.split(':') as [
    | 'volume'
    | 'create'
    | 'freeze'
    | 'thaw'
    | 'snapshot'
    | 'snapshot-parked'
    | 'revert'
    | 'forget'
    | 'destroy',
  ];
  const ownerDn = ownerAt(point);
  if (point === 'volume: removing') {
    const { id } = await systems.volumes!.create({ ownerDn, name: 'kept', sizeMiB: 1 });
    void systems.volumes!.destroy(id);
    return;
  }
  const own = { name: 'own', sizeMiB: 1, keep: false };
  const volumes = { volumes: [own, { ...own, name: 'kept', keep: true }], field: 'volumes' };
  // before it is stored its point is not known: the answer may never come
  void systems.create({
    ...{ ownerDn, image: 'i', parameters: {}, tags: [point] },
    ...(which === 'lives' && { volumes }),
  });
  if (what === 'volume') return;
  const find = () => systems.list().find(({ tags }) => tags[0] === point);
  if (point === 'create: stored') return;
  await until('it is there', () => find() !== undefined, 60_000);
  const { id } = find()!;
  if (what === 'create') return;
  await becomes(id, 'READY');
  if (what === 'destroy') {
    void systems.destroy(id);
    return;
  }
  if (what === 'snapshot') {
    void systems.snapshots.take(id, point);
    return;
  }
  if (what === 'revert' || what === 'forget') {
    const { id: snapshotId } = await systems.snapshots.take(id, point);
    await until('it is taken', () => isIdle(id), 60_000);
    await becomes(id, 'READY');
    void (what === 'revert'
      ? systems.snapshots.revert(id, snapshotId)
      : systems.snapshots.remove(id, snapshotId));
    return;
  }
  void systems.parking.freeze(id);
  if (what === 'freeze') return;
  await becomes(id, 'SUSPENDED');
  void (what === 'thaw' ? systems.parking.thaw(id) : systems.snapshots.take(id, point));
}

/** What was begun is finished by the next server; then it is taken down. */
async function finish(id: string, point: Point): Promise<void> {
  if (point.startsWith('destroy')) return;
  await until(`${point} is over`, () => isIdle(id), 60_000);
  const snapshots = systems.snapshots.list(id);
  if (/^(snapshot|revert)/.test(point))
    assert.deepEqual(
      snapshots.map(({ state }) => state),
      ['READY'],
      point,
    );
  if (point.startsWith('revert')) assert.equal(systems.get(id).generation, 2, point);
  if (point.startsWith('forget'))
    await until('it is forgotten', () => systems.snapshots.list(id).length === 0, 60_000);
  if (point.startsWith('snapshot-parked')) {
    await becomes(id, 'SUSPENDED');
    await systems.parking.thaw(id);
  }
  // what was kept can be gone back to
  if (/^snapshot.*: saved/.test(point)) {
    await becomes(id, 'READY');
    await systems.snapshots.revert(id, snapshots[0]!.id);
    await until(`${point} is put back`, () => isIdle(id), 60_000);
  }
  // it had run, and what was saved of it is older
  const isLost = which.startsWith('ends') && /^(thaw|snapshot): resumed/.test(point);
  await becomes(id, isLost ? 'FAILED' : point.startsWith('freeze') ? 'SUSPENDED' : 'READY');
  if (point.startsWith('freeze')) {
    await systems.parking.thaw(id);
    await becomes(id, 'READY');
  }
  await systems.destroy(id);
}
