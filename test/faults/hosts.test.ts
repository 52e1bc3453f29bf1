import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { appendFileSync, mkdirSync, mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { after, before, describe, it } from 'node:test';
import { buildDemoVm } from '#cli/image/build.js';
import { defaultCacheDirectory } from '#cli/quickstart/layout.js';
import { silentLog as log } from '#kernel/log.js';
import { openDatabase } from '#kernel/persistence/database.js';
import { Scope } from '#kernel/scope.js';
import { startsOf } from '#xnjs/index.js';
import { noMachines } from '../grid/grid.js';
import { until } from '../xnjs/job/rig.js';
import { noNamespace } from '../xnjs/vm/namespace.js';
import { bootMs, ownerDn, startServer, type NetworkServer } from '../xnjs/vm/network-server.js';
import { startTwoHosts } from './two-hosts.js';

describe('two hosts', { skip: noMachines || noNamespace, timeout: 600_000 }, () => {
  const shared = new Scope();
  let hosts: Awaited<ReturnType<typeof startTwoHosts>>;
  let server: NetworkServer;
  let start: (north?: object) => Promise<NetworkServer>;
  let directory = '';
  /** Of target systems, one on each host. */
  let [here, there] = ['', ''];

  before(async () => {
    directory = mkdtempSync(join(tmpdir(), 'vsite-hosts-'));
    shared.defer(() => rmSync(directory, { recursive: true, force: true }));
    const images = { cacheDir: join(defaultCacheDirectory(), 'images'), log };
    const [image, started] = await Promise.all([
      buildDemoVm(images),
      startTwoHosts(directory, shared),
    ]);
    hosts = started;
    start = (storage = { images: 'shared' }) =>
      startServer(directory, {
        ...{ images: [image], uri: hosts.local },
        others: [
          { name: 'local', capacity: { cores: 1 }, labels: ['near'] },
          {
            ...{ name: 'north', uri: hosts.north, labels: ['far'], ...storage },
            capacity: { cores: 2 },
          },
        ],
        systems: {
          compareMs: 1_000,
          orphanGraceMs: 2_000,
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
  const counted = Array.from({ length: 20 }, (_, n) => `${n + 1}\n`).join('');
  /** @returns the job that has printed some of that, and has to go on */
  async function parkWhileItCounts(): Promise<string> {
    const count = 'n=0; while [ $n -lt 20 ]; do n=$((n+1)); echo $n; sleep 0.2; done';
    const job = await submit(there, count);
    await until('it runs', async () => (await server.engine.get(job)).state === 'RUNNING', 60_000);
    await server.systems.parking.freeze(there);
    await becomes(there, /^SUSPENDED: parked on disk/, 60_000);
    return job;
  }
  /** As a database of yesterday has none. */
  async function loseRecord(id: string): Promise<void> {
    await server.scope.close();
    await using lost = new Scope();
    const url = `sqlite:${join(directory, 'server.sqlite')}`;
    const database = lost.use(await openDatabase({ url, log }));
    await database.sql('DELETE FROM target_systems WHERE id = $1', [id]);
    server = await start();
  }
  async function outputOf(jobId: string): Promise<string> {
    const { engine, systems } = server;
    await until('it is over', async () => (await engine.get(jobId)).state === 'DONE', 180_000);
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
    for (const { capabilities } of server.systems.places.list())
      assert.ok(capabilities.qemu?.['x86_64']?.machines.includes('q35'));
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
    const job = await parkWhileItCounts();
    assert.equal(hosts.virsh('list', '--all', '--name').trim(), '', 'no host has it');
    assert.throws(() => qemuOf(there));
    hosts.pull();
    try {
      await until('north is away', () => !isUp('north'), 60_000);
      await systems.parking.thaw(there);
      await becomes(there, /^READY/, 120_000);
      assert.equal(systems.get(there).host, 'local');
      assert.equal(await outputOf(job), counted);
    } finally {
      hosts.plug();
    }
    await until('north is back', () => isUp('north'), 60_000);
  });

  it('have snapshots of what is parked, which it stays; and can go back to them', async () => {
    const file = 'echo before > /tmp/when';
    await outputOf(await submit(there, file));
    await server.systems.parking.freeze(there);
    await becomes(there, /^SUSPENDED: parked on disk/, 60_000);
    const { host } = server.systems.get(there);
    await loseRecord(there);
    const { systems } = server;
    const found = () => systems.list().some((system) => system.id === there);
    await until('it is found in its file', found, 60_000);
    assert.match(told(there), /^SUSPENDED: found again/);
    assert.equal(systems.get(there).host, host);
    const { id } = await systems.snapshots.take(there, 'parked');
    const isSettled = () => systems.get(there).undertaking === undefined;
    await until('it is taken', isSettled, 120_000);
    assert.equal(systems.snapshots.get(there, id).state, 'READY');
    assert.match(told(there), /^SUSPENDED/);
    assert.notEqual(systems.get(there).parkedOn, undefined);
    await systems.parking.thaw(there);
    await becomes(there, /^READY/, 120_000);
    const marks = startsOf(systems.get(there)).find(({ what }) => what === 'thaw')?.boot;
    assert.ok(marks && marks.restoredMs! > 0 && marks.readyMs! >= marks.restoredMs!);
    await outputOf(await submit(there, 'echo after > /tmp/when'));
    await systems.snapshots.revert(there, id);
    await until('it is put back', isSettled, 120_000);
    await becomes(there, /^READY/, 120_000);
    assert.equal(await outputOf(await submit(there, 'cat /tmp/when')), 'before\n');
    await systems.snapshots.remove(there, id);
    await until('it is gone', () => systems.snapshots.list(there).length === 0, 60_000);
  });

  it('take from each other what is parked when one is drained', async () => {
    await server.systems.parking.freeze(there);
    await becomes(there, /^SUSPENDED/, 60_000);
    await server.systems.places.drain('local', true);
    await server.scope.close();
    server = await start();
    await server.systems.parking.thaw(there);
    await becomes(there, /^READY/, 120_000);
    assert.equal(server.systems.get(there).host, 'north');
    assert.match(hosts.virsh('list', '--name'), new RegExp(there));
    assert.equal(server.systems.get(there).parkedOn, undefined);
  });

  it('of which one hangs: so are its machines, and one that is deleted meanwhile goes later', async () => {
    process.kill(hosts.libvirtd(), 'SIGSTOP');
    try {
      await becomes(there, /^UNREACHABLE: .*host north: the hypervisor does not answer/, 60_000);
      await server.systems.destroy(there);
      assert.match(told(there), /^DESTROYING/);
    } finally {
      process.kill(hosts.libvirtd(), 'SIGCONT');
    }
    await until('it is gone', () => server.systems.list().length === 0, 60_000);
    assert.equal(hosts.virsh('list', '--all', '--name').trim(), '');
  });

  const pool = (): string => join(directory, 'pool');
  const volumes = (): string[] => readdirSync(pool()).sort();
  const machineVolumes = (): string[] => volumes().filter((name) => name.includes('-vm-'));

  it('of which one has storage of its own: it is lost while an image is copied there, and back', async () => {
    await server.scope.close();
    hosts.hide(join(directory, 'state'));
    mkdirSync(pool(), { mode: 0o711 });
    hosts.virsh('pool-define-as', 'vsite', 'dir', '--target', pool());
    server = await start({ images: 'copied', storage: { pool: 'vsite', imagesMiB: 512 } });
    const { systems } = server;
    const north = systems.places.list().find(({ name }) => name === 'north');
    assert.deepEqual(north?.storage, { pool: 'vsite', images: 0, usedMiB: 0, maxMiB: 512 });
    assert.equal(north.abilities.thaw, 'there');
    hosts.slow(160);
    const [first, second] = [await systems.create(wish()), await systems.create(wish('far'))];
    await systems.places.drain('local', false);
    there = first.id;
    const copied = (): number =>
      volumes().reduce((sum, name) => sum + statSync(join(pool(), name)).size, 0);
    await becomes(
      there,
      /^INITIALIZING: its image is being copied to host north: \d+ of \d+ MiB/,
      60_000,
    );
    await until('something is there', () => copied() > 8 * 1024 ** 2, 60_000);
    assert.equal(systems.get(there).start?.tier, 'fetch');
    // nobody waits for the copy who wants no machine any more
    await systems.destroy(second.id);
    await until('it is gone', () => systems.list().length === 1, 60_000);
    assert.match(told(there), /^INITIALIZING/);
    hosts.pull();
    const partly = copied();
    try {
      await until('north is away', () => !isUp('north'), 60_000);
      assert.match(told(there), /^INITIALIZING/);
    } finally {
      hosts.plug();
    }
    await until('north is back', () => isUp('north'), 60_000);
    assert.ok(copied() >= partly, 'what had arrived is kept');
    hosts.fast();
    await becomes(there, /^READY/, bootMs);
    const { start: how, boot, placement } = systems.get(there);
    assert.match(how?.reason ?? '', /its image is not on host north$/);
    assert.ok(boot.fetchedMs! <= boot.definedMs!);
    assert.match(placement ?? '', /^north/);
    assert.equal(volumes().filter((name) => name.includes('-image-')).length, 2);
    assert.equal(machineVolumes().length, 1, 'those of the other are gone');
    assert.equal((await systems.planner.estimate(wish())).host, 'north', 'which has the image');
  });

  it('of which one has storage of its own: jobs and consoles', async () => {
    const { systems } = server;
    assert.equal(await outputOf(await submit(there, 'hostname')), `vsite-${there.slice(0, 8)}\n`);
    const [file = ''] = machineVolumes().filter((name) => name.endsWith('-console'));
    assert.ok(
      hosts.virsh('dumpxml', `vsite-${there}`).includes(`<log file='${join(pool(), file)}'`),
    );
    appendFileSync(join(pool(), file), 'as if the guest had said so\n');
    assert.match(await systems.consoles.tail(there), /as if the guest had said so$/);
    const console = await systems.consoles.open(there, false);
    console.destroy();
  });

  it('what is parked on storage of its own goes on after the host itself was started anew', async () => {
    const { systems } = server;
    const job = await parkWhileItCounts();
    assert.equal(systems.get(there).parkedOn, undefined);
    await hosts.restart();
    hosts.hide(join(directory, 'state'));
    await until('north is back', () => isUp('north'), 60_000);
    await systems.parking.thaw(there);
    await becomes(there, /^READY/, 120_000);
    assert.equal(await outputOf(job), counted);
  });

  it('of which one is declared lost: its machine goes on here, and what turns up there later is removed', async () => {
    const { systems, engine } = server;
    const job = await submit(there, 'sleep 600');
    await until('it runs', async () => (await engine.get(job)).state === 'RUNNING', 60_000);
    await assert.rejects(systems.lostHosts.declare('north', 'CN=Admin'), { code: 'CONFLICT' });
    hosts.pull();
    try {
      await until('north is away', () => !isUp('north'), 60_000);
      await systems.lostHosts.declare('north', 'CN=Admin');
      const word =
        /started again: host north was declared lost by CN=Admin .* goes on on host local/;
      assert.match(told(there), word);
      await becomes(there, /^READY/, bootMs);
      assert.deepEqual([systems.get(there).host, systems.get(there).generation], ['local', 2]);
      await until('its job is over', async () => (await engine.get(job)).state === 'DONE', 60_000);
      assert.match((await engine.get(job)).run.result?.message ?? '', /declared lost/);
      assert.ok(qemuOf(there), 'two of them: nobody has ended the former');
      assert.match(hosts.virsh('list', '--name'), new RegExp(there));
    } finally {
      hosts.plug();
    }
    await until(
      'the former is gone',
      () => hosts.virsh('list', '--all', '--name').trim() === '',
      60_000,
    );
    await until('its files are, too', () => machineVolumes().length === 0, 60_000);
    assert.match(told(there), /^READY/);
    await assert.rejects(systems.create(wish('far')), { message: /north: it was declared lost/ });
    await systems.lostHosts.takeBack('north');
    assert.equal((await systems.planner.estimate(wish('far'))).host, 'north');
    await systems.destroy(there);
    await until('it is gone', () => systems.list().length === 0, 60_000);
    assert.equal(volumes().length, 2, 'the image stays for the next');
  });
});
