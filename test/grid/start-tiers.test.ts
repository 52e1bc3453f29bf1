import assert from 'node:assert/strict';
import { once } from 'node:events';
import { cp, mkdtemp, readdir, rm, stat, truncate } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { deleteAndWait } from '#cli/client/resources.js';
import { buildDemoVm, buildImage } from '#cli/image/build.js';
import { defaultCacheDirectory } from '#cli/quickstart/layout.js';
import { createTargetSystem, publish, waitUntilReady } from '#cli/quickstart/main-job.js';
import type { HttpClient } from '#kernel/http/client.js';
import { silentLog } from '#kernel/log.js';
import { inProject } from '../program.js';
import {
  eventually,
  exists,
  factoryPath,
  Grid,
  noContainers,
  noMachines,
  outputOf,
  refusal,
  sitePath,
} from './grid.js';
import { assertApart, giveIdentity, identityScript } from './named-image.js';

const signal = AbortSignal.timeout(300_000);

type Site = {
  readonly start: { readonly tier: string; readonly reason: string };
  readonly parameters: Record<string, number>;
  readonly vm: {
    readonly boot: Record<string, number>;
    readonly setup?: { readonly volumes?: readonly { name: string; path?: string }[] };
  };
};
type Started = Site & { readonly path: string; readonly id: string };

describe('target systems that start from what runs or was saved', { skip: noMachines }, () => {
  let grid: Grid;
  let user: HttpClient;
  let image: string;
  before(async () => {
    grid = await Grid.start();
    user = await grid.user();
    image = await grid.publishDemo('vm');
  });
  after(() => grid[Symbol.asyncDispose]());

  /** The demo container, of an image that was a machine itself. */
  const publishNamedContainer = async (): Promise<string> => {
    const folder = await mkdtemp(join(tmpdir(), 'vsite-named-'));
    try {
      await cp(inProject('config/images'), folder, { recursive: true });
      const recipe = join(folder, 'demo-container');
      giveIdentity(recipe);
      const cacheDir = join(folder, 'cache');
      const built = await buildImage(recipe, { cacheDir, log: silentLog });
      return await publish(await grid.creator(), built);
    } finally {
      await rm(folder, { recursive: true });
    }
  };
  const publishDemoAs = async (name: string): Promise<string> => {
    const cacheDir = join(defaultCacheDirectory(), 'images');
    const { metadata, ...built } = await buildDemoVm({ cacheDir, log: silentLog });
    return await publish(await grid.creator(), { ...built, metadata: { ...metadata, name } });
  };
  const spares = { images: { 'vsite-demo': 1 }, readAs: 'CN=Image Creator,O=VSite,C=EU' };
  const configure = async (settings: Record<string, object | undefined>): Promise<void> => {
    await grid.stopServer();
    for (const [name, value] of Object.entries(settings))
      await grid.set('targetsystem', `xnjs.targetSystems.${name}`, value);
    await grid.startServer();
  };
  const told = async (fact: string): Promise<number> =>
    (await grid.logText()).split(`"msg":"${fact}"`).length - 1;
  const waitFor = (fact: string, times: number): Promise<boolean> =>
    eventually(`${fact}, ${times} times`, async () => (await told(fact)) >= times, 120_000);
  const started = async (path: string): Promise<Started> => {
    await waitUntilReady(user, path, signal, () => undefined);
    return { path, id: path.split('/').at(-1)!, ...((await user.json('GET', path)).body as Site) };
  };
  const start = async (parameters: Record<string, number>, of = image): Promise<Started> =>
    await started(await createTargetSystem(user, of, parameters));
  /** What a job prints that runs this. */
  const run = ({ path }: Started, script: string): Promise<string> => outputOf(user, path, script);
  /** Which machines have got a certificate, the first first. */
  const certified = async (): Promise<string[]> =>
    [...(await grid.logText()).matchAll(/"machine":"([^"]+)".*"machine certified"/g)].map(
      ([, machine = '']) => machine,
    );
  const identity = async (site: Started): Promise<string[]> =>
    (await run(site, 'hostname; cat /etc/hostname /etc/machine-id')).trim().split('\n');

  const becomes = async ({ path }: Started, state: string): Promise<boolean> =>
    await eventually(`it is ${state}`, async () => {
      const { body } = await user.json('GET', path);
      return (body as { vm: { state: string } }).vm.state === state;
    });
  /** Parked, brought back and put back, as any machine, whatever its memory was mapped from. */
  const keepsItsMemory = async (site: Started): Promise<void> => {
    const remember = (word: string): Promise<string> => run(site, `echo ${word} > /tmp/word`);
    const remembered = (): Promise<string> =>
      run(site, 'cat /tmp/word /proc/sys/kernel/random/boot_id; md5sum < /bin/bash');
    await remember('first');
    const first = await remembered();
    await user.json('POST', `${site.path}/snapshots`, { name: 'first' });
    await becomes(site, 'READY');
    await remember('second');
    await user.json('POST', `${site.path}/actions/freeze`, {});
    await becomes(site, 'SUSPENDED');
    await user.json('POST', `${site.path}/actions/thaw`, {});
    await becomes(site, 'READY');
    assert.equal(await remembered(), first.replace('first', 'second'));
    const { body } = await user.json('GET', `${site.path}/snapshots`);
    const [snapshot = ''] = (body as { snapshots: string[] }).snapshots;
    await user.json('POST', `${new URL(snapshot).pathname}/actions/revert`, {});
    await becomes(site, 'READY');
    assert.equal(await remembered(), first);
  };

  it('restore a copy of a saved machine, which is another one than every other copy', async () => {
    const name = 'vsite-hot';
    await configure({ warm: { maxImages: 1, images: [name], readAs: spares.readAs } });
    const image = await publishDemoAs(name);
    await waitFor('the memory of a machine was saved for others', 1); // nobody had to start one
    const cold = await start({ cpus: 2 }, image);
    assert.equal(cold.start.tier, 'cold', cold.start.reason);
    // everybody in the guest can read its token, which is used up; nobody but root can show it to the server
    const seen = await run(
      cold,
      'cat /proc/cmdline; cat /dev/vport* 2>&1; ls /var/lib/unicore-tsi 2>&1; true',
    );
    assert.match(seen, /vsite\.enrolment=[\w-]{43}/);
    assert.equal(seen.match(/Permission denied/g)?.length, 2, seen);
    assert.deepEqual(await certified(), [`${cold.id}.1`]);
    await deleteAndWait(user, cold.path, signal);
    assert.deepEqual(await grid.domains('qemu'), [], 'it is no machine any more');
    await grid.killServer();
    await grid.startServer();
    await waitFor('a copy of saved memory is ready', 1);
    const [one, other] = [await start({}, image), await start({}, image)]; // from that, and from one of its own
    for (const { start: how } of [one, other]) assert.equal(how.tier, 'warm', how.reason);
    // each by a key of its own, made after its random numbers were another's
    assert.deepEqual((await certified()).slice(1).sort(), [`${one.id}.1`, `${other.id}.1`].sort());
    const script =
      'hostname; cat /etc/machine-id /proc/sys/kernel/random/boot_id; head -c 16 /dev/urandom | od -An -tx1; cat /proc/cmdline; date +%s';
    const [mine = [], theirs = []] = await Promise.all(
      [one, other].map(async (site) => {
        const lines = (await run(site, script)).trim().split('\n');
        assert.equal(lines[0], `vsite-${site.id.slice(0, 8)}`);
        assert.ok(lines[4]?.includes(`vsite.name=${lines[0]}`), lines[4]);
        const late = Math.abs(Number(lines.pop()) - Date.now() / 1_000);
        assert.ok(late < 60, `its clock is right: ${late} s`);
        return lines;
      }),
    );
    assert.equal(mine.length, 5);
    mine.forEach((line, at) => assert.notEqual(line, theirs[at]));

    const [template] = (await grid.machineDirectories()).filter(
      (id) => id !== one.id && id !== other.id,
    );
    const directory = join(grid.layout.state, 'vms', template!);
    const [memory, saved] = ['memory.ram', 'memory.save'].map((name) => join(directory, name));
    const { blocks } = await stat(memory!);
    assert.ok(blocks * 512 < 205e6, `memory that nobody uses is cleared: ${blocks} blocks`);
    assert.ok((await stat(saved!)).size < 4e6, 'the rest of the machine is little');
    await eventually('what was mapped has no name any more', async () => {
      const files = await readdir(directory);
      return !files.some((name) => name.includes(one.id) || name.includes(other.id));
    });
    await keepsItsMemory(one);

    await grid.stopServer(); // what it copied beforehand is of no use to the next one
    await truncate(saved!, 1_000);
    await grid.startServer();
    const spoilt = await start({}, image);
    assert.equal(spoilt.start.tier, 'cold');
    assert.match(spoilt.start.reason, /^warm failed: /);
    for (const { path } of [one, other, spoilt]) await deleteAndWait(user, path, signal);
    await configure({ warm: undefined });
    await eventually('no saved memory is left', async () => !(await exists(directory)));
  });

  it('get the parameters of their image when they run already, and volumes when they are booted', async () => {
    const tunable = await grid.publishOwnImage('demo-volumes');
    const spares = { images: { 'vsite-demo-volumes': 1 }, readAs: 'CN=Image Creator,O=VSite,C=EU' };
    const before = await told('a spare machine is ready');
    await configure({ spares });
    await waitFor('a spare machine is ready', before + 1);
    const make = async (wish: object): Promise<Started> => {
      const { headers } = await user.json('POST', factoryPath, { image: tunable, ...wish });
      return await started(new URL(String(headers['location'])).pathname);
    };
    const imageParameters = { greeting: "it's me", repeat: '2' };
    const spare = await make({ imageParameters });
    assert.equal(spare.start.tier, 'spare', spare.start.reason);
    const script = '. /run/vsite-parameters; echo $VSITE_PARAM_greeting';
    assert.equal(
      await run(spare, `/usr/lib/vsite/apps/greet; env -i sh -c '${script}'`),
      "it's me\nit's me\nit's me\n",
    );
    await deleteAndWait(user, spare.path, signal);
    await configure({ spares: undefined });

    const volumes = [
      { name: 'scratch', sizeMiB: 16, path: '/scratch' },
      { name: 'results', sizeMiB: 24, keep: true },
    ];
    const first = await make({ volumes });
    assert.equal(first.start.tier, 'cold');
    const places = first.vm.setup!.volumes!.map(({ name, path }) => `${name} ${path}`);
    assert.deepEqual(places, ['scratch /scratch', 'results /mnt/results']);
    const found = await run(
      first,
      'cd $VSITE_VOLUME_results && echo kept > file && touch $VSITE_VOLUME_scratch/x && ' +
        'stat -c %U:%a . && df -P /scratch . | tail -n 2 && grep -c nosuid,nodev /proc/mounts',
    );
    assert.match(
      found,
      /^grid:755\n\/dev\/vd[ab] .* \/scratch\n\/dev\/vd[ab] .* \/mnt\/results\n2\n$/,
    );
    await assert.rejects(
      user.json('POST', factoryPath, { image: tunable, volumes: [{ volume: 'results' }] }),
      refusal(409, /the volume results is in use by target system/),
    );
    await assert.rejects(
      user.json('POST', `${first.path}/snapshots`, {}),
      refusal(409, /it has volumes/),
    );
    await grid.killServer();
    await grid.startServer();
    assert.equal(await run(await started(first.path), 'cat /mnt/results/file'), 'kept\n');
    await user.json('POST', `${first.path}/actions/freeze`, {});
    await eventually('it is parked', async () => {
      const { body } = await user.json('GET', first.path);
      return (body as { vm: { state: string } }).vm.state === 'SUSPENDED';
    });
    await user.json('POST', `${first.path}/actions/thaw`, {});
    await eventually('it is back', async () => {
      const { body } = await user.json('GET', first.path);
      return (body as { resourceStatus: string }).resourceStatus === 'READY';
    });
    assert.equal(await run(await started(first.path), 'cat /mnt/results/file'), 'kept\n');
    await deleteAndWait(user, first.path, signal);

    const next = await make({ volumes: [{ volume: 'results', path: '/data' }] });
    assert.equal(await run(next, 'cat /data/file'), 'kept\n');
    await deleteAndWait(user, next.path, signal);
    const list = async (): Promise<string[]> =>
      ((await user.json('GET', `${sitePath}/volumes`)).body as { volumes: string[] }).volumes;
    const [volume = ''] = await list();
    const shown = (await user.json('GET', new URL(volume).pathname)).body;
    assert.equal((shown as { state: string }).state, 'AVAILABLE');
    const [removed] = (await once(grid.vsite(['volume', 'rm', 'results']), 'close')) as [number];
    assert.equal(removed, 0);
    assert.deepEqual(await list(), []);
    assert.deepEqual(await readdir(join(grid.layout.state, 'volumes')), []);
    await eventually('no machine is left', async () => (await grid.domains('qemu')).length === 0);
  });

  it('get one that runs already, with an identity of its own, over crashes of the server', async () => {
    const ready = await told('a spare machine is ready');
    const again = await told('a spare machine was found again');
    await configure({ spares });
    await waitFor('a spare machine is ready', ready + 1);
    const before = await certified();
    const first = await start({ cpuQuotaPercent: 90 });
    assert.deepEqual(first.start.tier, 'spare', first.start.reason);
    // it had proved itself while it was nobody's, by the name that it has now, and needs not again
    assert.equal(before.at(-1), `${first.id}.1`);
    assert.equal((await certified()).filter((name) => name === before.at(-1)).length, 1);
    const { claimedMs, identityMs, readyMs } = first.vm.boot;
    assert.ok(claimedMs! <= identityMs! && identityMs! <= readyMs!);
    assert.equal(first.parameters['cpuQuotaPercent'], 90);
    const [name, storedName, machineId] = await identity(first);
    assert.deepEqual([name, storedName], Array(2).fill(`vsite-${first.id.slice(0, 8)}`));
    assert.match(machineId!, /^[0-9a-f]{32}$/);

    await waitFor('a spare machine is ready', ready + 2);
    await grid.killServer();
    await grid.startServer();
    await waitFor('a spare machine was found again', again + 1);
    const claimed = await createTargetSystem(user, image, {});
    await grid.killServer(); // in the middle of it, or just after
    await grid.startServer();
    const second = await started(claimed);
    assert.ok(['spare', 'cold'].includes(second.start.tier));
    const [, , otherMachineId] = await identity(second);
    assert.notEqual(machineId, otherMachineId);

    const larger = await start({ cpus: 2 });
    assert.equal(larger.start.tier, 'cold');
    for (const { path } of [first, second, larger]) await deleteAndWait(user, path, signal);
    await configure({ spares: undefined });
    await eventually('no spare is left', async () => {
      const [domains, directories] = [await grid.domains('qemu'), await grid.machineDirectories()];
      return domains.length + directories.length === 0;
    });
  });

  it(
    'get a spare of what users ask for often, containers too',
    { skip: noContainers },
    async () => {
      const container = await publishNamedContainer();
      await configure({ spares: { demand: { max: 1, requests: 2, withinSeconds: 600 } } });
      const before = await told('a spare machine is ready');
      const printed: [name: string, identity: string][] = [];
      for (let times = 1; times <= 2; times++) {
        const cold = await start({}, container);
        assert.equal(cold.start.tier, 'cold', cold.start.reason);
        printed.push([`vsite-${cold.id.slice(0, 8)}`, await run(cold, identityScript)]);
        await deleteAndWait(user, cold.path, signal);
      }
      assertApart(
        printed.map(([name]) => name),
        printed.map(([, identity]) => identity),
      );
      await waitFor('a spare machine is ready', before + 1);
      const claimed = await start({}, container);
      assert.equal(claimed.start.tier, 'spare', claimed.start.reason);
      const [name, storedName, machineId] = await identity(claimed);
      assert.deepEqual([name, storedName], Array(2).fill(`vsite-${claimed.id.slice(0, 8)}`));
      await waitFor('a spare machine is ready', before + 2); // demand is learnt, not counted once
      const other = await start({}, container);
      assert.equal(other.start.tier, 'spare', other.start.reason);
      assert.notEqual((await identity(other))[2], machineId);
      for (const { path } of [claimed, other]) await deleteAndWait(user, path, signal);
      await configure({ spares: undefined });
      await eventually('no spare is left', async () => (await grid.domains('lxc')).length === 0);
    },
  );
});
