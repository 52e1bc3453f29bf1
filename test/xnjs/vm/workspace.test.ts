import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { chmod, lstat, mkdir, mkdtemp, readdir, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { Workspace } from '#xnjs/vm/workspace.js';
import { aTargetSystem, anImageMetadata } from './samples.js';

const isRoot = process.getuid?.() === 0;
const noQemu = spawnSync('qemu-img', ['--version']).error ? 'qemu-img is not installed' : false;

const systemOf = (format: string) =>
  aTargetSystem({
    driver: format === 'rootfs' ? 'lxc' : 'qemu',
    image: {
      id: 'an-image',
      metadata: anImageMetadata({ format }),
      parts: { rootfs: { sha256: 'abc', sizeBytes: 1 } },
    },
  });

describe('the files of a target system', () => {
  let directory: string;
  let workspace: Workspace;
  before(async () => {
    directory = await mkdtemp(join(tmpdir(), 'vsite-ws-'));
    await chmod(directory, 0o711);
    workspace = new Workspace(join(directory, 'state'));
  });
  after(async () => rm(directory, { recursive: true }));
  const kernelParts = async (): Promise<{ kernel: string; initrd: string }> => {
    const parts = { kernel: join(directory, 'vmlinuz'), initrd: join(directory, 'initrd') };
    for (const path of Object.values(parts)) await writeFile(path, '');
    return parts;
  };

  it('are an overlay over a disk image, made once', { skip: noQemu }, async () => {
    const base = join(directory, 'base.qcow2');
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', base, '8M']);
    const { disk } = await workspace.prepare(systemOf('qcow2'), { disk: base });
    const first = await lstat(disk!);
    await workspace.prepare(systemOf('qcow2'), { disk: base });
    assert.equal((await lstat(disk!)).ino, first.ino);
    const info = JSON.parse(
      execFileSync('qemu-img', ['info', '--output=json', disk!]).toString(),
    ) as object;
    const backing = (info as { 'backing-filename': string })['backing-filename'];
    assert.equal((await lstat(backing)).ino, (await lstat(base)).ino, 'shared, not copied');
    assert.notEqual(backing, base, 'and outlives the image');
  });

  it('have a larger disk than their image where it is asked for', { skip: noQemu }, async () => {
    const base = join(directory, 'small.qcow2');
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', base, '8M']);
    const sizeOf = async (virtualBytes?: number): Promise<number> => {
      const [system, id] = [systemOf('qcow2'), randomUUID()];
      const part = { sha256: 'a'.repeat(64), sizeBytes: 1, ...(virtualBytes && { virtualBytes }) };
      const { disk } = await workspace.prepare(
        {
          ...{ ...system, id },
          image: { ...system.image, parts: { disk: part } },
          parameters: { ...system.parameters, diskMiB: 16 },
        },
        { disk: base },
      );
      const told = execFileSync('qemu-img', ['info', '--output=json', disk!]).toString();
      await workspace.remove(id);
      return (JSON.parse(told) as { 'virtual-size': number })['virtual-size'];
    };
    assert.equal(await sizeOf(8 * 1024 ** 2), 16 * 1024 ** 2);
    assert.equal(await sizeOf(), 8 * 1024 ** 2, 'of an image whose size is not known');
  });

  it('are gone after removal, which may be repeated', async () => {
    const system = systemOf('kernel');
    await workspace.prepare(system, await kernelParts());
    assert.deepEqual(await workspace.list(), [system.id]);
    await workspace.remove(system.id);
    await workspace.remove(system.id);
    assert.deepEqual(await workspace.list(), []);
  });

  it(
    'of a container belong to nobody on the host',
    { skip: isRoot ? false : 'needs root' },
    async () => {
      const tree = join(directory, 'tree');
      await mkdir(join(tree, 'home', 'grid'), { recursive: true });
      await mkdir(join(tree, 'bin'));
      await writeFile(join(tree, 'bin', 'su'), '', { mode: 0o755 });
      await chmod(join(tree, 'bin', 'su'), 0o4755);
      await symlink('/etc/shadow', join(tree, 'bin', 'link'));
      const archive = join(directory, 'root.tar');
      execFileSync('tar', ['-c', '-f', archive, '-C', tree, '.']);
      const system = systemOf('rootfs');
      const { root, mounts } = await workspace.prepare(system, { rootfs: archive });
      const su = await lstat(join(root!, 'bin', 'su'));
      assert.deepEqual([su.uid, su.mode & 0o7777], [100_000, 0o4755]);
      assert.equal((await lstat(join(root!, 'bin', 'link'))).uid, 100_000);
      assert.equal((await lstat('/etc/shadow')).uid, 0, 'a link must not be followed');
      assert.deepEqual(await readdir(mounts!['/home']!), ['grid']);
    },
  );

  it('cannot lie too deep for a unix socket', () => {
    assert.throws(() => new Workspace('/'.padEnd(80, 'x')), { code: 'BAD_REQUEST' });
  });

  it('names the part that an image lacks', async () => {
    const { kernel } = await kernelParts();
    await assert.rejects(workspace.prepare(systemOf('kernel'), { kernel }), {
      code: 'IMAGE_INVALID',
      message: /initrd/,
    });
  });

  it('show the end of the console without control characters', async () => {
    const system = systemOf('kernel');
    const { console } = await workspace.prepare(system, await kernelParts());
    await writeFile(console, `${'x'.repeat(5000)}\u001b[31mKernel panic\u0007\n`);
    assert.match(await workspace.consoleTail(system.id, 40), /^x+\[31mKernel panic$/);
  });
});
