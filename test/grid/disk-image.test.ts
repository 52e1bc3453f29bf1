import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdtemp, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { after, before, describe, it } from 'node:test';
import { promisify } from 'node:util';
import { deleteAndWait } from '#cli/client/resources.js';
import { defaultCacheDirectory } from '#cli/quickstart/layout.js';
import {
  createTargetSystem,
  findImage,
  publish,
  waitUntilReady,
} from '#cli/quickstart/main-job.js';
import { ImageRecord } from '#imagerepo/contract.js';
import type { HttpClient } from '#kernel/http/client.js';
import { Site } from '#targetsystem/rest/answers.js';
import { Task } from '#targetsystem/rest/answers-data.js';
import { buildWriter, diskMiB, makeBootableDisk, noDisks } from './bootable-disk.js';
import { eventually, Grid, imagesPath, noMachines } from './grid.js';
import { assertApart, identityScript } from './named-image.js';

const run = promisify(execFile);
const signal = AbortSignal.timeout(300_000);
const digest = async (path: string): Promise<string> =>
  createHash('sha256')
    .update(await readFile(path))
    .digest('hex');

describe('a disk image', { skip: noMachines || noDisks }, () => {
  let grid: Grid;
  let user: HttpClient;
  let work: string;
  let image: string;
  let published: string;
  before(async () => {
    work = await mkdtemp(join(tmpdir(), 'vsite-disk-'));
    grid = await Grid.start();
    user = await grid.user();
    const cacheDir = join(defaultCacheDirectory(), 'images');
    const demo = await buildWriter(work, cacheDir);
    const disk = await makeBootableDisk(work, demo);
    published = await digest(disk);
    const metadata = { ...demo.metadata, name: 'vsite-disk', format: 'qcow2' } as const;
    await publish(await grid.creator(), { ...demo, metadata, parts: { disk } });
    image = (await findImage(user, 'Transform', 'qcow2')).id;
  });
  after(async () => {
    await grid[Symbol.asyncDispose]();
    await rm(work, { recursive: true });
  });

  const start = async (): Promise<string> => {
    const site = await createTargetSystem(user, image, { cpus: 1 });
    await waitUntilReady(user, site, signal, () => undefined);
    return site;
  };

  /** The kernel's command line, as a job in the target system sees it. */
  const commandLine = (site: string): Promise<string> => printed(site, 'cat /proc/cmdline');

  async function printed(site: string, script: string): Promise<string> {
    const { headers } = await user.json('POST', site, { Executable: script });
    const path = new URL(String(headers['location'])).pathname;
    const job = await eventually('the job ends', async () => {
      const { body } = await user.json('GET', path);
      const { status } = body as { status: string };
      assert.notEqual(status, 'FAILED');
      return status === 'SUCCESSFUL' && (body as { _links: Record<string, { href: string }> });
    });
    const directory = new URL(job._links['workingDirectory']!.href).pathname;
    return await text((await user.download(`${directory}/files/stdout`)).body);
  }

  /** What the target system has of its own: bytes of its overlay that are not the image's. */
  async function overlay(site: string): Promise<{ written: number; base: string }> {
    const directory = join(grid.layout.state, 'vms', site.split('/').at(-1)!);
    const map = ['map', '-U', '--output=json', 'overlay.qcow2'];
    const { stdout } = await run('qemu-img', map, { cwd: directory });
    const pieces = JSON.parse(stdout) as { depth: number; data: boolean; length: number }[];
    const own = pieces.filter(({ depth, data }) => depth === 0 && data);
    return {
      written: own.reduce((sum, { length }) => sum + length, 0),
      base: await digest(join(directory, 'base.qcow2')),
    };
  }

  /** A guest that writes all that it can, from its first byte on: it gets what it was promised, and no more. */
  async function fill(site: string): Promise<void> {
    const write = 'dd if=/dev/zero of=/dev/vda bs=1048576 conv=fsync';
    const said = await printed(
      site,
      `${write} 2>&1; ${write} count=1 seek=${2 * diskMiB} 2>&1; true`,
    );
    assert.match(said, /No space left on device/);
    const { size, blocks } = await stat(
      join(grid.layout.state, 'vms', site.split('/').at(-1)!, 'overlay.qcow2'),
    );
    const mebibytes = Math.max(size, blocks * 512) / 1_048_576;
    // of QEMU's own beside it, tables of the clusters
    assert.ok(mebibytes > diskMiB - 1 && mebibytes < diskMiB + 2, `${mebibytes} MiB on the host`);
    const { vm } = Site.parse((await user.json('GET', site)).body);
    assert.ok(['READY', 'DEGRADED'].includes(vm.state), vm.evidence.fact);
    assert.match(await printed(site, 'echo well'), /^well/);
  }

  /** Until its task is over. */
  async function saveImage(site: string, wish: object): Promise<ImageRecord> {
    const { body } = await user.json('POST', `${site}/actions/save-image`, wish);
    const task = new URL((body as { taskHref: string }).taskHref).pathname;
    const imageId = await eventually('it is saved', async () => {
      const { status, statusMessage, result } = Task.parse((await user.json('GET', task)).body);
      assert.notEqual(status, 'FAILED', statusMessage);
      return status === 'SUCCESSFUL' && result['imageId'];
    });
    return ImageRecord.parse((await user.json('GET', `${imagesPath}/${imageId}`)).body);
  }

  it('boots, and what one target system writes no other sees', async () => {
    const one = await start();
    assert.match(await commandLine(one), /vsite\.name=disk boot=first\b/);
    const { written, base } = await overlay(one);
    assert.ok(written > 0, 'the boot loader has written');
    assert.equal(base, published);

    // the second starts from the image, not from what the first has made of it
    const two = await start();
    assert.match(await commandLine(two), / boot=first\b/);
    assert.ok((await overlay(two)).written > 0);
    assert.equal((await grid.domains('qemu')).length, 2);

    // what the first has on its disk becomes an image, which keeps nothing of what it came from
    const saved = await saveImage(one, { version: '2.0', description: 'as it was left' });
    assert.equal(saved.metadata.visibility, 'private');
    assert.equal(saved.metadata.description, 'as it was left');
    assert.deepEqual(
      [saved.metadata.origin?.image, saved.metadata.origin?.site],
      [image, one.split('/').at(-1)],
    );
    const { snapshots } = (await user.json('GET', `${one}/snapshots`)).body as {
      snapshots: string[];
    };
    assert.deepEqual(snapshots, [], 'what was taken for it is forgotten');
    await assert.rejects(
      user.json('POST', `${one}/actions/save-image`, { version: '3', snapshot: 'none' }),
      /there is no snapshot none/,
    );
    await deleteAndWait(user, one, signal);
    assert.deepEqual(await grid.machineDirectories(), [two.split('/').at(-1)]);
    assert.match(await commandLine(two), / boot=first\b/, 'it runs on');
    const three = await createTargetSystem(user, saved.id, { cpus: 1 });
    await waitUntilReady(user, three, signal, () => undefined);
    assert.match(await commandLine(three), / boot=later\b/, 'as the first has left it');
    const machines = [two, three];
    assertApart(
      machines.map((site) => `vsite-${site.split('/').at(-1)!.slice(0, 8)}`),
      await Promise.all(machines.map((site) => printed(site, identityScript))),
    );
    await fill(two);
    assert.match(await commandLine(three), / boot=later\b/, 'it runs on');
    await deleteAndWait(user, two, signal);
    await deleteAndWait(user, three, signal);
    assert.deepEqual(await grid.domains('qemu'), []);
    assert.deepEqual(await grid.machineDirectories(), []);
  });
});
