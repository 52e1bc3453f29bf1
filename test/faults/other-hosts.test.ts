import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { silentLog as log } from '#kernel/log.js';
import { Scope } from '#kernel/scope.js';
import { localHost } from '#xnjs/vm/hosts/host.js';
import { Hosts } from '#xnjs/vm/hosts/hosts.js';
import type { TargetSystem } from '#xnjs/vm/target-system.js';
import type { TargetSystems } from '#xnjs/vm/target-systems.js';
import { aDaemon, withoutLibvirtd } from '../kernel/libvirt/daemon.js';
import { until } from '../xnjs/job/rig.js';
import { openTables } from '../xnjs/persistence/databases.js';
import { bootKernel } from './boot-sectors.js';
import { startAgents, startMachines } from './machine-rig.js';
import { openNorth } from './north.js';
import { Proxy } from './proxy.js';

describe('machines of nobody on another host', { skip: withoutLibvirtd, timeout: 400_000 }, () => {
  let [here, there] = [] as unknown as Awaited<ReturnType<typeof aDaemon>>[];
  const shared = new Scope();
  let server: Awaited<ReturnType<typeof start>>;
  let directory = '';
  /** To the other host's libvirt. */
  let wire: Proxy;
  before(async () => {
    [here, there] = await Promise.all([aDaemon(), aDaemon()]);
    for (const daemon of [here, there]) shared.defer(() => daemon[Symbol.asyncDispose]());
    wire = await Proxy.open(join(there.stateDir, 'wire'), { path: there.socketPath });
    shared.use(wire);
  });
  after(async () => {
    await server.scope.close();
    await shared.close();
  });

  const wireUri = (): string => `qemu+unix:///system?socket=${join(there!.stateDir, 'wire')}`;
  const pool = (): string => join(there!.stateDir, 'pool');
  const virsh = (daemon: typeof here, ...args: string[]): string =>
    execFileSync('virsh', ['-q', '-c', daemon!.options('qemu').uri, ...args], { encoding: 'utf8' });
  const domains = (daemon: typeof here): string[] =>
    virsh(daemon, 'list', '--all', '--name').split('\n').filter(Boolean);
  const told = () =>
    server.systems.places.list().map(({ name, spares }) => `${name} ${spares.ready}/${spares.all}`);
  const hosts = (expected: string[]): Promise<void> =>
    until(expected.join(), () => told().join() === expected.join(), 60_000).catch(
      (error: unknown) => {
        throw new Error(told().join(), { cause: error });
      },
    );

  async function start(spares: Record<string, number>, hasPool: boolean) {
    const scope = new Scope();
    const database = await openTables(scope, `sqlite:${join(directory, 'db.sqlite')}`);
    const agents = join(directory, 'agents.sock');
    const systems: TargetSystems = await startMachines(scope, {
      ...{ database, uri: here!.options('qemu').uri, directory, format: 'kernel', spares },
      part: () => join(directory, 'kernel'),
      socketOf: () => agents,
      hosts: async (local, options) => {
        const none = { labels: [], drain: false, capacity: {}, reserved: {} };
        const rest = { uri: wireUri(), agents, database };
        const north = await openNorth(
          scope,
          { ...rest, ...(hasPool && { pool: 'vsite' }) },
          options,
        );
        const all = [
          { name: localHost, hypervisor: local, drivers: ['qemu' as const], ...none },
          north,
        ];
        const hosts = scope.use(new Hosts({ hosts: all, log }));
        await hosts.start();
        return hosts;
      },
    });
    return { scope, systems };
  }
  const create = (image: string, label?: string): Promise<TargetSystem> =>
    server.systems.create({
      ...{ ownerDn: 'CN=User,O=VSite', image, parameters: {}, tags: [] },
      ...(label !== undefined && { hostLabels: { labels: [label], field: 'hostLabels' } }),
    });
  const isReady = (id: string): Promise<void> =>
    until('it is ready', () => server.systems.get(id).state === 'READY', 60_000);

  for (const hasPool of [false, true])
    it(`spares: on both, ${hasPool ? 'with storage of its own' : 'with our files'}`, async () => {
      directory = join(here!.stateDir, hasPool ? 'copied' : 'shared');
      mkdirSync(directory);
      bootKernel(join(directory, 'kernel'));
      await using agents = new Scope();
      await startAgents(agents, join(directory, 'agents.sock'));
      if (hasPool) {
        mkdirSync(pool());
        virsh(there, 'pool-define-as', 'vsite', 'dir', '--target', pool());
      }
      server = await start({ kernel: 2 }, hasPool);
      // nothing is copied for nobody while there is a host that has the image
      await hosts(hasPool ? ['local 2/2', 'north 0/0'] : ['local 1/1', 'north 1/1']);
      if (hasPool) {
        const first = await create('kernel', 'far');
        await isReady(first.id);
        await server.systems.destroy(first.id);
        await server.systems.places.drain('local', true);
        await hosts(['local 0/0', 'north 2/2']);
        await server.systems.places.drain('local', false);
      }
      const claimed = await create('kernel', 'far');
      assert.equal(claimed.start?.tier, 'spare', claimed.start?.reason);
      assert.equal(claimed.host, 'north');
      await isReady(claimed.id);
      assert.ok(domains(there).includes(`vsite-${claimed.id}`));
      await server.systems.destroy(claimed.id);
      await hosts(['local 1/1', 'north 1/1']);

      const before = domains(there).sort();
      wire.cut({ forGood: true });
      await hosts(['local 2/2', 'north 0/1']);
      const other = await create('kernel');
      assert.deepEqual([other.start?.tier, other.host], ['spare', 'local']);
      // a server that never saw it believes no more, and none is made in its place again
      await server.scope.close();
      server = await start({ kernel: 2 }, hasPool);
      await hosts(['local 2/2', 'north 0/1']);
      assert.deepEqual(domains(there).sort(), before);
      await server.systems.destroy(other.id);
      wire.heal();
      const found = (): boolean => /north [12]\/[12]/.test(told()[1]!);
      await until('it is found again', found, 60_000);
      await hosts(['local 1/1', 'north 1/1']);
      await server.scope.close();
      server = await start({}, hasPool);
      await hosts(['local 0/0', 'north 0/0']);
      await until('nothing is left', () =>
        [here, there].every((each) => domains(each).length === 0),
      );
      if (hasPool)
        assert.equal(readdirSync(pool()).filter((name) => name.includes('-vm-')).length, 0);
      await server.scope.close();
    });
});
