import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { silentLog as log } from '#kernel/log.js';
import { Scope } from '#kernel/scope.js';
import { createRecordStores } from '#xnjs/persistence/sql-record-store.js';
import { localHost } from '#xnjs/vm/hosts/host.js';
import { Hosts } from '#xnjs/vm/hosts/hosts.js';
import type { TargetSystem } from '#xnjs/vm/target-system.js';
import type { NewTargetSystem } from '#xnjs/vm/target-systems-options.js';
import type { TargetSystems } from '#xnjs/vm/target-systems.js';
import type { Template } from '#xnjs/vm/tiers/template.js';
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

  /** A site of its own. */
  async function prepare(agents: Scope, what: string, hasPool: boolean): Promise<void> {
    // of a test that has failed
    await (server as typeof server | undefined)?.scope.close();
    directory = join(here!.stateDir, `${what}-${hasPool ? 'copied' : 'shared'}`);
    mkdirSync(join(directory, 'vms'), { recursive: true });
    bootKernel(join(directory, 'kernel'));
    await startAgents(agents, join(directory, 'agents.sock'));
    if (hasPool && !existsSync(pool())) {
      mkdirSync(pool());
      virsh(there, 'pool-define-as', 'vsite', 'dir', '--target', pool());
    }
  }

  async function start(spares: Record<string, number>, hasPool: boolean, maxImages = 0) {
    const scope = new Scope();
    const database = await openTables(scope, `sqlite:${join(directory, 'db.sqlite')}`);
    const agents = join(directory, 'agents.sock');
    const templates = createRecordStores(database)<Template>('template');
    const systems: TargetSystems = await startMachines(scope, {
      ...{ database, uri: here!.options('qemu').uri, directory, format: 'kernel', spares },
      warm: { store: templates, maxImages },
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
          {
            name: localHost,
            hypervisor: local,
            drivers: ['qemu' as const],
            ...none,
            labels: ['near'],
          },
          north,
        ];
        const hosts = scope.use(new Hosts({ hosts: all, log }));
        await hosts.start();
        return hosts;
      },
    });
    return { scope, systems, templates };
  }
  const wish = (image: string, label?: string): NewTargetSystem => ({
    ...{ ownerDn: 'CN=User,O=VSite', image, parameters: {}, tags: [] },
    ...(label !== undefined && { hostLabels: { labels: [label], field: 'hostLabels' } }),
  });
  const create = (image: string, label?: string): Promise<TargetSystem> =>
    server.systems.create(wish(image, label));
  const isReady = (id: string): Promise<void> =>
    until('it is ready', () => server.systems.get(id).state === 'READY', 60_000);

  for (const hasPool of [false, true])
    it(`spares: on both, ${hasPool ? 'with storage of its own' : 'with our files'}`, async () => {
      await using agents = new Scope();
      await prepare(agents, 'spares', hasPool);
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

  const ofMachines = (): string[] => [
    ...readdirSync(join(directory, 'vms')),
    ...(existsSync(pool()) ? readdirSync(pool()).filter((name) => name.includes('-vm-')) : []),
  ];
  /** Memory is wished for there, and is being saved. @returns its machine */
  async function capture(): Promise<string> {
    const { id } = await create('kernel', 'far');
    await isReady(id);
    await server.systems.destroy(id);
    await until('it is gone', () => server.systems.list().length === 0);
    await until('another boots', () => domains(there).length === 1, 60_000);
    return domains(there)[0]!;
  }
  const isSaved = async (): Promise<boolean> =>
    (await server.templates.all()).some(({ patches }) => patches !== undefined);

  for (const hasPool of [false, true])
    it(`saved memory: on the other, ${hasPool ? 'with storage of its own' : 'with our files'}`, async () => {
      await using agents = new Scope();
      await prepare(agents, 'memory', hasPool);
      server = await start({}, hasPool, 1);
      await server.systems.places.drain('local', true);
      const lost = await capture();
      wire.cut({ forGood: true });
      await server.scope.close();
      server = await start({}, hasPool, 1);
      await server.systems.places.drain('local', true);
      assert.deepEqual(domains(there), [lost], 'nobody can have removed it');
      wire.heal();
      await until(
        'it is gone',
        () => ofMachines().length === 0 && domains(there).length === 0,
        60_000,
      );

      await capture();
      await until('it is saved', isSaved, 60_000);
      const plan = () => server.systems.planner.estimate(wish('kernel', 'far'));
      await until('that is known', async () => (await plan()).tier === 'warm');
      const restored = await create('kernel', 'far');
      assert.deepEqual([restored.start?.tier, restored.host], ['warm', 'north']);
      await isReady(restored.id);
      assert.equal(server.systems.get(restored.id).start?.tier, 'warm');
      assert.deepEqual(domains(there), [`vsite-${restored.id}`]);
      await server.systems.destroy(restored.id);
      await until('it is gone', () => server.systems.list().length === 0);

      wire.cut({ forGood: true });
      await server.systems.places.drain('local', false);
      // what hosts share is there whichever of them is away
      const other = await create('kernel', 'near');
      assert.equal(other.start?.tier, hasPool ? 'cold' : 'warm', other.start?.reason);
      await isReady(other.id);
      await server.systems.destroy(other.id);
      await server.scope.close();
      server = await start({}, hasPool);
      await until(
        'our own is gone',
        () => readdirSync(join(directory, 'vms')).length === 0,
        60_000,
      );
      if (hasPool) assert.equal((await server.templates.all()).length, 1, 'nothing is known of it');
      wire.heal();
      await until('nothing is left', () => ofMachines().length === 0, 60_000);
      await until('no record either', async () => (await server.templates.all()).length === 0);
      await server.scope.close();
    });
});
