import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  createWriteStream,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { after, before, describe, it } from 'node:test';
import { deleteAndWait } from '#cli/client/resources.js';
import { startLibvirtd, type Libvirtd } from '#cli/host/libvirtd.js';
import { publish, waitUntilReady } from '#cli/quickstart/main-job.js';
import { defaultCacheDirectory } from '#cli/quickstart/layout.js';
import type { HttpClient } from '#kernel/http/client.js';
import { silentLog } from '#kernel/log.js';
import { findDescendant } from '../kernel/libvirt/daemon.js';
import { until } from '../xnjs/job/rig.js';
import { buildWriter, makeBootableDisk, noDisks } from './bootable-disk.js';
import { eventually, factoryPath, Grid, imagesPath, noContainers, outputOf } from './grid.js';

const signal = AbortSignal.timeout(400_000);
const skip = noContainers || noDisks;
const mib = 1_048_576;
/** Of a disk, where neither its boot loader nor its files are. */
const atMiB = 92;

type Site = {
  readonly start: { readonly tier: string; readonly reason: string };
  readonly vm: {
    readonly state: string;
    readonly host: string;
    readonly generation: number;
    readonly boot: Record<string, number>;
  };
};
type Started = Site & { readonly path: string; readonly id: string };
type Plan = { readonly host: string; readonly tier: string; readonly placement: string };

describe('another host with real machines', { skip, timeout: 400_000 }, () => {
  let grid: Grid;
  let user: HttpClient;
  let north: Libvirtd;
  let directory: string;
  let image: string;
  before(async () => {
    directory = mkdtempSync(join(tmpdir(), 'vsite-north-'));
    north = await startLibvirtd({
      stateDir: join(directory, 'libvirt'),
      cacheDir: join(defaultCacheDirectory(), 'libvirt'),
      log: silentLog,
    });
    grid = await Grid.start({
      prepare: async (made) => {
        await setHosts({ images: 'shared' }, made);
        await made.set('targetsystem', 'xnjs.targetSystems.warm', { maxImages: 1 });
      },
    });
    user = await grid.user();
    image = await grid.publishDemo('vm');
  });
  after(async () => {
    await grid[Symbol.asyncDispose]();
    await north.stop();
    rmSync(directory, { recursive: true, force: true });
  });

  const setHosts = (far: object, of = grid): Promise<void> =>
    of.set('targetsystem', 'xnjs.hypervisor.hosts', [
      { name: 'local', labels: ['near'] },
      { name: 'north', uri: north.uri('qemu'), labels: ['far'], ...far },
    ]);
  const storage = { images: 'copied', storage: { pool: 'vsite', imagesMiB: 512 } };
  const pool = (): string => join(directory, 'pool');
  const volumes = (word: string): string[] =>
    readdirSync(pool()).filter((name) => name.includes('-vm-') && name.includes(word));
  /** By the server's log. @param host absent: wherever */
  const told = async (fact: string, host?: string): Promise<number> => {
    const lines = (await grid.logText()).split('\n').filter((line) => line.includes(fact));
    return lines.filter((line) => host === undefined || line.includes(`"host":"${host}"`)).length;
  };
  const waitFor = (fact: string, times: number, host?: string): Promise<boolean> =>
    eventually(fact, async () => (await told(fact, host)) >= times, 120_000);
  const wish = (label: string, of = image) => ({ image: of, hostLabels: [label] });
  const plan = async (label: string, of = image): Promise<Plan> =>
    (await user.json('POST', `${factoryPath}?dryRun=true`, wish(label, of))).body as Plan;
  const create = async (label: string, of = image): Promise<string> => {
    const { headers } = await user.json('POST', factoryPath, wish(label, of));
    return new URL(String(headers['location'])).pathname;
  };
  const look = async (path: string): Promise<Started> => ({
    ...{ path, id: path.split('/').at(-1)! },
    ...((await user.json('GET', path)).body as Site),
  });
  const start = async (label: string, of = image): Promise<Started> => {
    const path = await create(label, of);
    await waitUntilReady(user, path, signal, () => undefined);
    return await look(path);
  };
  /** What a job prints that runs this. */
  const run = ({ path }: Started, script: string): Promise<string> => outputOf(user, path, script);
  /** Until it is as it should be. @returns what is told of it */
  const ends = (path: string, name: 'state' | 'status', wanted: string) =>
    eventually(wanted, async () => {
      const body = (await user.json('GET', path)).body as Record<string, unknown>;
      assert.notEqual(body[name], 'FAILED', JSON.stringify(body));
      return body[name] === wanted && body;
    });
  const virsh = (...args: string[]): string =>
    execFileSync('virsh', ['-q', '-c', north.uri('qemu'), ...args], { encoding: 'utf8' });
  const saved = 'the memory of a machine was saved for others';
  const copied = 'a copy of saved memory is ready';

  const identityScript =
    'hostname; cat /etc/machine-id /proc/sys/kernel/random/boot_id; cat /proc/cmdline; head -c 16 /dev/urandom | od -An -tx1';
  const assertApart = async (sites: readonly Started[]): Promise<void> => {
    const seen = await Promise.all(
      sites.map(async (site) => {
        const lines = (await run(site, identityScript)).trim().split('\n');
        assert.equal(lines[0], `vsite-${site.id.slice(0, 8)}`);
        assert.ok(lines[3]?.includes(`vsite.name=${lines[0]}`), lines[3]);
        return lines;
      }),
    );
    const [mine = [], theirs = []] = seen;
    assert.equal(mine.length, 5);
    mine.forEach((line, at) => assert.notEqual(line, theirs[at]));
  };

  it('that shares our files: memory that was saved on either starts machines of both', async () => {
    const first = await create('near');
    assert.equal((await look(first)).start.tier, 'cold');
    await deleteAndWait(user, first, signal); // what was wished for stays
    await waitFor(saved, 1);
    await waitFor(copied, 1);
    const planned = await Promise.all(['near', 'far'].map((label) => plan(label)));
    assert.deepEqual(
      planned.map(({ host, tier }) => [host, tier]),
      [
        ['local', 'warm'],
        ['north', 'warm'],
      ],
    );
    const both = [await start('near'), await start('far')];
    for (const { start: how } of both) assert.equal(how.tier, 'warm', how.reason);
    assert.match(virsh('list', '--name'), new RegExp(both[1]!.id));
    await assertApart(both);
    for (const { path } of both) await deleteAndWait(user, path, signal);
    assert.equal(await told(saved), 1);
  });

  it('with storage of its own: memory is saved and copied there', async () => {
    const before = await told(saved, 'north');
    await grid.stopServer();
    const inside = await findDescendant(north.pid!, 'libvirtd');
    const hide = ['mount', '-t', 'tmpfs', 'none', grid.layout.state];
    execFileSync('nsenter', ['-t', String(inside), '-m', ...hide]);
    mkdirSync(pool(), { mode: 0o711 });
    virsh('pool-define-as', 'vsite', 'dir', '--target', pool());
    await setHosts(storage);
    await grid.startServer();
    assert.equal((await plan('far')).tier, 'fetch');
    const first = await create('far');
    await eventually('its image is there', async () => (await look(first)).vm.boot['fetchedMs']);
    await deleteAndWait(user, first, signal);
    // one that is killed leaves a copy that no other believes
    await waitFor(copied, 1, 'north');
    assert.equal(await told(saved, 'north'), before + 1);
    await grid.killServer();
    await grid.startServer();
    await waitFor(copied, 2, 'north');
    const { tier, host } = await plan('far');
    assert.deepEqual([tier, host], ['warm', 'north']);
    const both = [await start('far'), await start('far')];
    for (const { start: how } of both) assert.equal(how.tier, 'warm', how.reason);
    await assertApart(both);
    for (const { path } of both) await deleteAndWait(user, path, signal);
    await until('one copy waits', () => volumes('-copy-').length === 1);
    assert.deepEqual([volumes('-memory').length, volumes('-console').length], [1, 1]);
  });

  it('with storage of its own: spares, and what is kept of their disks', async () => {
    const demo = await buildWriter(directory, join(defaultCacheDirectory(), 'images'));
    const disk = await makeBootableDisk(directory, demo);
    const metadata = { ...demo.metadata, name: 'vsite-disk', format: 'qcow2' } as const;
    const ofDisk = await publish(await grid.creator(), { ...demo, metadata, parts: { disk } });
    await grid.stopServer();
    await setHosts({ ...storage, capacity: { cores: 1 } });
    const spares = { images: { 'vsite-disk': 1 }, readAs: 'CN=Image Creator,O=VSite,C=EU' };
    await grid.set('targetsystem', 'xnjs.targetSystems.spares', spares);
    await grid.set('targetsystem', 'xnjs.targetSystems.warm', undefined);
    await grid.set('targetsystem', 'xnjs.hypervisor.hosts.0.drain', true);
    await grid.startServer();
    await waitFor('a spare machine is ready', 1);
    assert.deepEqual(
      [volumes('-copy-'), volumes('-memory')],
      [[], []],
      'nothing is saved any more',
    );
    assert.equal((await plan('far', ofDisk)).tier, 'spare');
    const site = await start('far', ofDisk);
    assert.deepEqual([site.start.tier, site.vm.host], ['spare', 'north']);

    const write = (word: string) =>
      run(site, `printf ${word} | dd of=/dev/vda bs=1048576 seek=${atMiB} conv=fsync 2>&1`);
    const read = () => run(site, `dd if=/dev/vda bs=1048576 skip=${atMiB} count=1 | head -c 5`);
    await write('early');
    const { headers } = await user.json('POST', `${site.path}/snapshots`, { name: 'early' });
    const snapshot = new URL(String(headers['location'])).pathname;
    await ends(snapshot, 'state', 'READY');
    await write('later');
    assert.equal(await read(), 'later');
    await user.json('POST', `${snapshot}/actions/revert`, {});
    await eventually('it is put back', async () => {
      const { vm } = await look(site.path);
      return vm.state === 'READY' && vm.generation === 2;
    });
    assert.equal(await read(), 'early');

    const body = { version: '2.0' };
    const task = (await user.json('POST', `${site.path}/actions/save-image`, body)).body;
    const { pathname } = new URL((task as { taskHref: string }).taskHref);
    const { imageId } = (await ends(pathname, 'status', 'SUCCESSFUL'))['result'] as Record<
      string,
      string
    >;
    const copy = join(directory, 'saved.qcow2');
    const part = await user.download(`${imagesPath}/${imageId}/parts/disk`);
    await pipeline(part.body, createWriteStream(copy));
    execFileSync('qemu-img', ['check', '-q', copy]);
    const raw = join(directory, 'saved.raw');
    execFileSync('qemu-img', ['convert', '-O', 'raw', copy, raw]);
    const content = readFileSync(raw);
    assert.equal(content.toString('latin1', atMiB * mib, atMiB * mib + 5), 'early');
    assert.equal(content.indexOf('\x01\x05first'), -1, 'the boot loader has noted its first boot');
    await deleteAndWait(user, site.path, signal);
    assert.deepEqual(volumes(site.id), []);
  });
});
