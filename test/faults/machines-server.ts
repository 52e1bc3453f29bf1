/**
 * Target systems in a process of its own, to be killed: each is held at the point that its tag names.
 * Arguments: directory, URI of libvirt, disk of the machines, `hold` or `settle`, and `one` host or `two`: what is
 * parked is somewhere else then. The second host is never there.
 */
import { join } from 'node:path';
import { Scope } from '#kernel/scope.js';
import { localHost } from '#xnjs/vm/hosts/host.js';
import { Hosts } from '#xnjs/vm/hosts/hosts.js';
import { LibvirtHypervisor, type LibvirtHypervisorOptions } from '#xnjs/vm/libvirt-hypervisor.js';
import { silentLog as log } from '#kernel/log.js';
import type { TargetSystem } from '#xnjs/vm/target-system.js';
import { until } from '../xnjs/job/rig.js';
import { openTables } from '../xnjs/persistence/databases.js';
import { Gates } from './machine-gates.js';
import { startMachines } from './machine-rig.js';
import { points, type Point } from './machine-points.js';

const [directory = '', uri = '', disk = '', mode = 'hold', hosts = 'one'] = process.argv.slice(2);
const isHolding = mode === 'hold';

const gates = new Gates(isHolding);

/** One that is never there. */
function away(options: LibvirtHypervisorOptions): LibvirtHypervisor {
  return new LibvirtHypervisor({ ...options, clients: {}, probes: {} });
}

const host = { labels: [], drain: false, capacity: {}, reserved: {}, drivers: ['qemu'] } as const;
const scope = new Scope();
const systems = await startMachines(scope, {
  database: await openTables(scope, `sqlite:${join(directory, 'db.sqlite')}`),
  ...{ uri, directory, part: () => disk },
  socketOf: () => join(directory, 'agents.sock'),
  hypervisor: (options) => gates.hypervisor(options),
  ...(hosts === 'two' && {
    hosts: (local, options) => {
      const both = [
        { name: localHost, hypervisor: local, ...host },
        { name: 'away', hypervisor: away(options), ...host },
      ];
      return new Hosts({ hosts: both, log });
    },
  }),
  stores: ({ targets, spares }) => ({ targets: gates.targets(targets), spares }),
});
const becomes = (id: string, state: TargetSystem['state']): Promise<void> =>
  until(`${systems.get(id).tags[0]} is ${state}`, () => systems.get(id).state === state, 60_000);

if (isHolding) {
  await Promise.all(points.map((point) => lead(point)));
  await until('all are held', () => gates.held.size === points.length, 60_000);
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
