import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { chmodSync, existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { buffer, text } from 'node:stream/consumers';
import { after, before, describe, it } from 'node:test';
import { buildDemoContainer, buildDemoVm } from '#cli/image/build.js';
import { defaultCacheDirectory } from '#cli/quickstart/layout.js';
import { silentLog as log } from '#kernel/log.js';
import { Scope } from '#kernel/scope.js';
import { Proxy } from '../faults/proxy.js';
import { startTwoHosts } from '../faults/two-hosts.js';
import { until } from '../xnjs/job/rig.js';
import { noNamespace } from '../xnjs/vm/namespace.js';
import { bootMs, ownerDn, startServer, type NetworkServer } from '../xnjs/vm/network-server.js';
import { noMachines } from './grid.js';

describe(
  'another host with two drivers',
  { skip: noMachines || noNamespace, timeout: 600_000 },
  () => {
    const shared = new Scope();
    let directory = '';
    let hosts: Awaited<ReturnType<typeof startTwoHosts>>;
    /** By which its containers are reached beside the cable, as where each driver has a daemon of its own. */
    let wire: Proxy;
    let server: NetworkServer;
    let start: () => Promise<NetworkServer>;
    /** Of target systems. */
    let [container, machine] = ['', ''];

    before(async () => {
      directory = mkdtempSync(join(tmpdir(), 'vsite-hc-'));
      chmodSync(directory, 0o711); // root in a container is nobody here
      shared.defer(() => rmSync(directory, { recursive: true, force: true }));
      const options = { cacheDir: join(defaultCacheDirectory(), 'images'), log };
      const [forContainers, forMachines, started] = await Promise.all([
        buildDemoContainer(options),
        buildDemoVm(options),
        startTwoHosts(directory, shared),
      ]);
      hosts = started;
      const socket = join(directory, 'wire.sock');
      wire = await Proxy.open(socket, { path: hosts.northSocket });
      shared.defer(() => wire[Symbol.asyncDispose]());
      start = () =>
        startServer(directory, {
          ...{ images: [forContainers, forMachines], uri: hosts.local },
          others: [
            { name: 'local', labels: ['near'] },
            {
              ...{ name: 'north', uri: hosts.north, labels: ['far'], images: 'shared' },
              containers: `lxc+unix:///system?socket=${socket}`,
              capacity: { cores: 2 },
            },
          ],
          systems: { compareMs: 1_000, limits: { cpus: 2, memoryMiB: 512, perUser: 4 } },
        });
      server = await start();
      shared.defer(() => server.scope.close());
    });
    after(() => shared.close());

    const wish = (image: 'vsite-demo' | 'vsite-demo-container') => ({
      ...{ ownerDn, image, parameters: {}, tags: [] },
      hostLabels: { labels: ['far'], field: 'hostLabels' },
    });
    const told = (id: string): string => {
      const { state, evidence } = server.systems.get(id);
      return `${state}: ${evidence.fact}`;
    };
    const becomes = (id: string, what: RegExp, withinMs = 60_000): Promise<void> =>
      until(what.source, () => what.test(told(id)), withinMs).catch((error: unknown) => {
        throw new Error(told(id), { cause: error });
      });
    const submit = async (targetId: string, Executable: string): Promise<string> =>
      (await server.engine.submit({ ownerDn, targetId, description: { Executable } })).id;
    async function outputOf(jobId: string): Promise<string> {
      const { engine, systems } = server;
      await until('it is over', async () => (await engine.get(jobId)).state === 'DONE', bootMs);
      const { targetId, directory: uspace, run } = await engine.get(jobId);
      assert.equal(run.result?.message, '');
      const target = systems.find(targetId)!;
      return await text(target.tsi().read(target.identity, `${uspace!}stdout`));
    }
    const run = async (script: string): Promise<string> =>
      outputOf(await submit(container, script));

    it('has containers, which are reached by a console of their own', async () => {
      container = (await server.systems.create(wish('vsite-demo-container'))).id;
      await becomes(container, /^READY/, bootMs);
      const { host, driver } = server.systems.get(container);
      assert.deepEqual([host, driver], ['north', 'lxc']);
      assert.equal(await run('hostname'), `vsite-${container.slice(0, 8)}\n`);
      const [north] = server.systems.places.list().filter(({ name }) => name === 'north');
      assert.deepEqual(north?.drivers, [
        { name: 'qemu', isUp: true },
        { name: 'lxc', isUp: true },
      ]);
      assert.equal(north.abilities.containers, true);
    });

    it('has containers whose files come and go as they are', async () => {
      const target = server.systems.find(container)!;
      const data = Buffer.concat([
        Buffer.from(Array.from({ length: 256 }, (_, i) => i)),
        randomBytes(1024 ** 2),
      ]);
      const path = '/home/grid/bytes';
      await target.tsi().write(target.identity, path, Readable.from([data]), { mode: 0o600 });
      const sum = createHash('sha256').update(data).digest('hex');
      assert.equal(await run(`sha256sum < ${path}`), `${sum}  -\n`);
      assert.ok(data.equals(await buffer(target.tsi().read(target.identity, path))));
    });

    it('has room that machines and containers share', async () => {
      machine = (await server.systems.create(wish('vsite-demo'))).id;
      const full = { code: 'LIMIT_REACHED', message: /north: cores: 1 asked for, 0 of 2 free/ };
      for (const image of ['vsite-demo', 'vsite-demo-container'] as const)
        await assert.rejects(server.systems.planner.estimate(wish(image)), full);
      await becomes(machine, /^READY/, bootMs);
    });

    it('has containers that go on while their driver, or this server, is away', async () => {
      const job = await submit(container, 'sleep 3; echo slept');
      await until(
        'it runs',
        async () => (await server.engine.get(job)).state === 'RUNNING',
        60_000,
      );
      wire.cut({ forGood: true });
      await becomes(
        container,
        /^UNREACHABLE: .*host north \(lxc\): the hypervisor does not answer/,
      );
      assert.match(told(machine), /^READY/);
      await assert.rejects(server.systems.planner.estimate(wish('vsite-demo-container')), {
        code: 'HYPERVISOR_UNAVAILABLE',
        message: /no libvirt for lxc answers/,
      });
      await server.scope.close();
      server = await start();
      wire.heal();
      await becomes(container, /^READY/);
      assert.equal(server.systems.get(container).generation, undefined);
      assert.equal(await outputOf(job), 'slept\n');
    });

    it('takes neither when it is drained', async () => {
      await server.systems.places.drain('north', true);
      for (const image of ['vsite-demo', 'vsite-demo-container'] as const)
        await assert.rejects(server.systems.planner.estimate(wish(image)), {
          code: 'LIMIT_REACHED',
          message: /north: it is drained/,
        });
    });

    it('keeps nothing of either', async () => {
      for (const id of [container, machine]) await server.systems.destroy(id);
      await until('they are gone', () => server.systems.list().length === 0, bootMs);
      assert.equal(hosts.virsh('list', '--all', '--name').trim(), '');
      for (const id of [container, machine])
        assert.ok(!existsSync(join(directory, 'state', 'vms', id)));
    });
  },
);
