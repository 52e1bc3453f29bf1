import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { after, before, describe, it } from 'node:test';
import { deleteAndWait } from '#cli/client/resources.js';
import { startLibvirtd, type Libvirtd } from '#cli/host/libvirtd.js';
import { waitUntilReady } from '#cli/quickstart/main-job.js';
import { defaultCacheDirectory } from '#cli/quickstart/layout.js';
import type { HttpClient } from '#kernel/http/client.js';
import { silentLog } from '#kernel/log.js';
import { findDescendant } from '../kernel/libvirt/daemon.js';
import { eventually, factoryPath, Grid, noContainers, sitePath } from './grid.js';

const signal = AbortSignal.timeout(400_000);
const skip = noContainers;

type Site = {
  readonly host: string;
  readonly start: { readonly tier: string; readonly reason: string };
  readonly vm: { readonly boot: Record<string, number> };
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
        await made.set('targetsystem', 'xnjs.hypervisor.hosts', hosts({ images: 'shared' }));
        await made.set('targetsystem', 'xnjs.targetSystems.warm', { maxImages: 1 });
      },
    });
    user = await grid.user();
    image = await grid.publishDemo('vm');
  });
  after(async () => {
    if (process.env['DBG']) (await import('node:fs')).writeFileSync(process.env['DBG'], await grid.logText());
    await grid[Symbol.asyncDispose]();
    await north.stop();
    rmSync(directory, { recursive: true, force: true });
  });

  const hosts = (storage: object) => [
    { name: 'local', labels: ['near'] },
    { name: 'north', uri: north.uri('qemu'), labels: ['far'], ...storage },
  ];
  const pool = (): string => join(directory, 'pool');
  const told = async (fact: string): Promise<number> =>
    (await grid.logText()).split(`"msg":"${fact}"`).length - 1;
  const waitFor = (fact: string, times: number): Promise<boolean> =>
    eventually(`${fact}, ${times} times`, async () => (await told(fact)) >= times, Number(process.env["WAITMS"] ?? 120_000));
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
  const run = async ({ path }: Started, script: string): Promise<string> => {
    const { headers } = await user.json('POST', `${path}/jobs`, { Executable: script });
    const job = new URL(String(headers['location'])).pathname;
    await eventually('the job has ended', async () => {
      const { status } = (await user.json('GET', job)).body as { status: string };
      assert.notEqual(status, 'FAILED');
      return status === 'SUCCESSFUL';
    });
    const uspace = `${sitePath}/storages/${job.split('/').at(-1)!}-uspace`;
    return await text((await user.download(`${uspace}/files/stdout`)).body);
  };
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
    await grid.stopServer();
    const inside = await findDescendant(north.pid!, 'libvirtd');
    const hide = ['mount', '-t', 'tmpfs', 'none', grid.layout.state];
    execFileSync('nsenter', ['-t', String(inside), '-m', ...hide]);
    mkdirSync(pool(), { mode: 0o711 });
    virsh('pool-define-as', 'vsite', 'dir', '--target', pool());
    const storage = { images: 'copied', storage: { pool: 'vsite', imagesMiB: 512 } };
    await grid.set('targetsystem', 'xnjs.hypervisor.hosts', hosts(storage));
    await grid.startServer();
    assert.equal((await plan('far')).tier, 'fetch');
    const first = await create('far');
    await eventually('its image is there', async () => (await look(first)).vm.boot['fetchedMs']);
    await deleteAndWait(user, first, signal);
    const [savedBefore, copiedBefore] = [1, await told(copied)];
    await waitFor(saved, savedBefore + 1);
    await waitFor(copied, copiedBefore + 1);
    await grid.killServer();
    await grid.startServer();
    await waitFor(copied, copiedBefore + 2);
    console.log(readdirSync(pool()));
    const { tier, host } = await plan('far');
    assert.deepEqual([tier, host], ['warm', 'north']);
    const both = [await start('far'), await start('far')];
    for (const { start: how } of both) assert.equal(how.tier, 'warm', how.reason);
    console.log(both.map(({ vm }) => vm.boot));
    await assertApart(both);
    for (const { path } of both) await deleteAndWait(user, path, signal);
    console.log(readdirSync(pool()));
  });
});
