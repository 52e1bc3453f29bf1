/**
 * Target systems in a process of its own, to be killed: each is held at the point that its tag names.
 * Arguments: directory, URI of libvirt, disk of the machines, `hold` or `settle`.
 */
import { join } from 'node:path';
import { Scope } from '#kernel/scope.js';
import type { Hypervisor } from '#xnjs/vm/hypervisor.js';
import { LibvirtHypervisor } from '#xnjs/vm/libvirt-hypervisor.js';
import type { TargetStore } from '#xnjs/vm/target-store.js';
import type { TargetSystem } from '#xnjs/vm/target-system.js';
import { until } from '../xnjs/job/rig.js';
import { openTables } from '../xnjs/persistence/databases.js';
import { startMachines } from './machine-rig.js';
import { points, type Point } from './machine-points.js';

const [directory = '', uri = '', disk = '', mode = 'hold'] = process.argv.slice(2);
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

function gatedStore(store: TargetStore): TargetStore {
  return {
    ...store,
    async save(system, ...rest) {
      const [point] = system.tags as Point[];
      if (point) pointOf.set(system.id, point);
      await store.save(system, ...rest);
      if (system.state === 'INITIALIZING' && system.boot.startedMs === undefined)
        await pass(system.id, 'create: stored');
      if (system.desired === 'suspended')
        await pass(system.id, system.state === 'PAUSED' ? 'freeze: stored' : 'freeze: done');
      if (system.state === 'UNREACHABLE') await pass(system.id, 'thaw: stored');
      if (system.state === 'DESTROYING') await pass(system.id, 'destroy: stored');
    },
    async remove(system, change) {
      await pass(system.id, 'destroy: files removed');
      await store.remove(system, change);
    },
  };
}

class GatedHypervisor extends LibvirtHypervisor {
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

  override async restore(...args: Parameters<Hypervisor['restore']>) {
    const restored = await super.restore(...args);
    await pass(args[1], 'thaw: restored');
    return restored;
  }

  override async remove(...args: Parameters<Hypervisor['remove']>) {
    await super.remove(...args);
    await pass(args[1], 'destroy: domain removed');
  }
}

const scope = new Scope();
const systems = await startMachines(scope, {
  database: await openTables(scope, `sqlite:${join(directory, 'db.sqlite')}`),
  ...{ uri, directory, disk: () => disk },
  socketOf: () => join(directory, 'agents.sock'),
  hypervisor: (options) => new GatedHypervisor(options),
  stores: ({ targets, spares }) => ({ targets: gatedStore(targets), spares }),
});
const becomes = (id: string, state: TargetSystem['state']): Promise<void> =>
  until(`${pointOf.get(id) ?? id} is ${state}`, () => systems.get(id).state === state, 60_000);

if (isHolding) {
  await Promise.all(points.map((point) => lead(point)));
  await until('all are held', () => held.size === points.length, 60_000);
  process.send?.('held');
} else {
  const all = systems.list();
  await Promise.all(all.map(({ id, tags }) => settle(id, tags[0] as Point)));
  await until('all are gone', () => systems.list().length === 0, 60_000);
  await scope.close();
  process.send?.(`settled ${all.length}`);
  process.disconnect();
}

/** Brings one to where it is held. What is waited for on the way there may never come. */
async function lead(point: Point): Promise<void> {
  const [what] = point.split(':') as ['create' | 'freeze' | 'thaw' | 'destroy'];
  // before it is stored its point is not known: the answer may never come
  // by users of their own, whose orders wait for each other
  const ownerDn = `CN=${points.indexOf(point)},O=VSite`;
  void systems.create({ ownerDn, image: 'i', parameters: {}, tags: [point] });
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
  void systems.freeze(id);
  if (what === 'freeze') return;
  await becomes(id, 'SUSPENDED');
  void systems.thaw(id);
}

/** What was begun is finished by the next server; then it is taken down. */
async function settle(id: string, point: Point): Promise<void> {
  if (point.startsWith('destroy')) return;
  await becomes(id, point.startsWith('freeze') ? 'SUSPENDED' : 'READY');
  if (point.startsWith('freeze')) {
    await systems.thaw(id);
    await becomes(id, 'READY');
  }
  await systems.destroy(id);
}
