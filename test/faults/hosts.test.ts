import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { after, before, describe, it } from 'node:test';
import { buildDemoVm } from '#cli/image/build.js';
import { defaultCacheDirectory } from '#cli/quickstart/layout.js';
import { silentLog as log } from '#kernel/log.js';
import { Scope } from '#kernel/scope.js';
import { noMachines } from '../grid/grid.js';
import { until } from '../xnjs/job/rig.js';
import { noNamespace } from '../xnjs/vm/namespace.js';
import { bootMs, ownerDn, startServer, type NetworkServer } from '../xnjs/vm/network-server.js';
import { startTwoHosts } from './two-hosts.js';

describe('two hosts', { skip: noMachines || noNamespace, timeout: 600_000 }, () => {
  const shared = new Scope();
  let hosts: Awaited<ReturnType<typeof startTwoHosts>>;
  let server: NetworkServer;
  let start: () => Promise<NetworkServer>;
  /** Of target systems, one on each host. */
  let [here, there] = ['', ''];

  before(async () => {
    const directory = mkdtempSync(join(tmpdir(), 'vsite-hosts-'));
    shared.defer(() => rmSync(directory, { recursive: true, force: true }));
    const images = { cacheDir: join(defaultCacheDirectory(), 'images'), log };
    const [image, started] = await Promise.all([
      buildDemoVm(images),
      startTwoHosts(directory, shared),
    ]);
    hosts = started;
    start = () =>
      startServer(directory, {
        ...{ images: [image], uri: hosts.local },
        others: [
          { name: 'local', capacity: { cores: 1 }, labels: ['near'] },
          {
            ...{ name: 'north', uri: hosts.north, images: 'shared', labels: ['far'] },
            capacity: { cores: 2 },
          },
        ],
        systems: {
          compareMs: 1_000,
          recovery: 'restart',
          limits: { cpus: 2, memoryMiB: 512, perUser: 4 },
        },
      });
    server = await start();
    shared.defer(() => server.scope.close());
  });
  after(() => shared.close());

  const wish = (label?: string) => ({
    ...{ ownerDn, image: 'vsite-demo', parameters: {}, tags: [] },
    ...(label !== undefined && { hostLabels: { labels: [label], field: 'hostLabels' } }),
  });
  const told = (id: string): string => {
    const { state, evidence } = server.systems.get(id);
    return `${state}: ${evidence.fact}`;
  };
  const becomes = (id: string, what: RegExp, withinMs: number): Promise<void> =>
    until(what.source, () => what.test(told(id)), withinMs).catch((error: unknown) => {
      throw new Error(told(id), { cause: error });
    });
  const isUp = (name: string): boolean =>
    server.systems.places.list().find((host) => host.name === name)!.drivers[0]!.isUp;
  const qemuOf = (id: string): string =>
    execFileSync('pgrep', ['-o', '-f', `guest=vsite-${id}`], { encoding: 'utf8' }).trim();
  const submit = async (targetId: string, Executable: string): Promise<string> =>
    (await server.engine.submit({ ownerDn, targetId, description: { Executable } })).id;
  async function outputOf(jobId: string): Promise<string> {
    const { engine, systems } = server;
    await until('it is over', async () => (await engine.get(jobId)).state === 'DONE', 60_000);
    const { targetId, directory, run } = await engine.get(jobId);
    assert.equal(run.result?.message, '');
    const target = systems.find(targetId)!;
    return await text(target.tsi().read(target.identity, `${directory!}stdout`));
  }

  it('get machines by labels and room; agents of the other are reached through its libvirt', async () => {
    const { systems } = server;
    await systems.places.drain('local', true);
    const first = await systems.create(wish());
    await systems.places.drain('local', false);
    const second = await systems.create(wish('near'));
    [there, here] = [first.id, second.id];
    assert.deepEqual([first.host, second.host], ['north', 'local']);
    assert.equal(second.placement, 'local: the only one where it fits');
    await Promise.all([becomes(here, /^READY/, bootMs), becomes(there, /^READY/, bootMs)]);
    assert.match(hosts.virsh('list', '--name'), new RegExp(there));
    const jobs = await Promise.all([here, there].map((id) => submit(id, 'hostname')));
    const names = await Promise.all(jobs.map(outputOf));
    assert.deepEqual(
      names,
      [here, there].map((id) => `vsite-${id.slice(0, 8)}\n`),
    );
  });

  it('tell what each of them lacks when neither has room', async () => {
    const third = await server.systems.planner.estimate(wish());
    assert.deepEqual([third.host, third.placement], ['north', 'north: the only one where it fits']);
    const more = { ...wish(), parameters: { cpus: { value: 2, field: 'parameters.cpus' } } };
    await assert.rejects(server.systems.create(more), {
      code: 'LIMIT_REACHED',
      message: /local: cores: 2 asked for, 0 of 1 free; north: cores: 2 asked for, 1 of 2 free/,
    });
  });

  it('that are drained take no new machines, after a restart of the server too', async () => {
    await server.systems.places.drain('north', true);
    await server.scope.close();
    server = await start();
    await assert.rejects(server.systems.create(wish('far')), {
      code: 'LIMIT_REACHED',
      message: /north: it is drained/,
    });
    await becomes(there, /^READY/, 60_000);
    await server.systems.places.drain('north', false);
    assert.equal((await server.systems.planner.estimate(wish())).host, 'north');
    await assert.rejects(server.systems.places.drain('south', true), { code: 'NOT_FOUND' });
  });

  it('of which one is lost: its machines are UNREACHABLE, others go on; back again, so are they', async () => {
    const machine = qemuOf(there);
    const job = await submit(there, 'sleep 8; echo slept');
    await until('it runs', async () => (await server.engine.get(job)).state === 'RUNNING', 60_000);
    hosts.pull();
    try {
      await becomes(there, /^UNREACHABLE: .*host north: the hypervisor does not answer/, 60_000);
      const work = await submit(here, 'echo goes on');
      assert.equal(await outputOf(work), 'goes on\n');
      await assert.rejects(server.systems.create(wish('far')), { code: 'HYPERVISOR_UNAVAILABLE' });
      // a server that never saw it believes no more
      await server.scope.close();
      server = await start();
      await becomes(here, /^READY/, 60_000);
      await server.systems.destroy(here);
      await until('it is gone', () => server.systems.list().length === 1, 60_000);
      assert.match(told(there), /^UNREACHABLE/);
      assert.equal(qemuOf(there), machine);
    } finally {
      hosts.plug();
    }
    await becomes(there, /^READY/, 60_000);
    assert.equal(qemuOf(there), machine);
    assert.equal(server.systems.get(there).generation, undefined);
    assert.equal(await outputOf(job), 'slept\n');
  });

  it('have in common what is parked: it goes on here while the other is away', async () => {
    const { systems } = server;
    const count = 'n=0; while [ $n -lt 40 ]; do n=$((n+1)); echo $n; sleep 0.1; done';
    const job = await submit(there, count);
    await until('it runs', async () => (await server.engine.get(job)).state === 'RUNNING', 60_000);
    await systems.freeze(there);
    await becomes(there, /^SUSPENDED: parked on disk/, 60_000);
    assert.equal(hosts.virsh('list', '--all', '--name').trim(), '', 'no host has it');
    assert.throws(() => qemuOf(there));
    hosts.pull();
    try {
      await until('north is away', () => !isUp('north'), 60_000);
      await systems.thaw(there);
      await becomes(there, /^READY/, 120_000);
      assert.equal(systems.get(there).host, 'local');
      const lines = Array.from({ length: 40 }, (_, n) => `${n + 1}\n`);
      assert.equal(await outputOf(job), lines.join(''));
    } finally {
      hosts.plug();
    }
    await until('north is back', () => isUp('north'), 60_000);
  });

  it('take from each other what is parked when one is drained', async () => {
    await server.systems.freeze(there);
    await becomes(there, /^SUSPENDED/, 60_000);
    await server.systems.places.drain('local', true);
    await server.scope.close();
    server = await start();
    await server.systems.thaw(there);
    await becomes(there, /^READY/, 120_000);
    assert.equal(server.systems.get(there).host, 'north');
    assert.match(hosts.virsh('list', '--name'), new RegExp(there));
    assert.equal(server.systems.get(there).parkedOn, undefined);
  });

  it('of which one hangs: so are its machines, and one that is deleted meanwhile goes later', async () => {
    process.kill(hosts.libvirtd, 'SIGSTOP');
    try {
      await becomes(there, /^UNREACHABLE: .*host north: the hypervisor does not answer/, 60_000);
      await server.systems.destroy(there);
      assert.match(told(there), /^DESTROYING/);
    } finally {
      process.kill(hosts.libvirtd, 'SIGCONT');
    }
    await until('it is gone', () => server.systems.list().length === 0, 60_000);
    assert.equal(hosts.virsh('list', '--all', '--name').trim(), '');
  });
});
