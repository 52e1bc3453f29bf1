import { execFile } from 'node:child_process';
import { chownSync, existsSync, lstatSync, mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { errorText } from '#kernel/errors.js';
import type { VolumeReport, VolumeWish } from '../protocol/machine-setup.js';
import { isExecutable } from './kernel-calls.js';

const run = promisify(execFile);
/** Making a file system takes an emulated machine seconds; the server waits no longer for all of it. */
const options = { timeout: 40_000 };
const programDirectories = ['/usr/sbin', '/sbin', '/usr/bin', '/bin'];
const longestProblem = 500;

/** Any file system, volume group or table of partitions has said so by then. */
const headBytes = 1024 * 1024;
const tailBytes = 64 * 1024;

/** The first that the image and its kernel have. */
const fileSystems = [
  { type: 'ext4', program: 'mkfs.ext4', args: ['-q', '-F', '-m', '0'] },
  { type: 'xfs', program: 'mkfs.xfs', args: ['-q', '-f'] },
  { type: 'ext2', program: 'mke2fs', args: ['-F', '-m', '0'] },
] as const;

type Owner = { readonly uid: number; readonly gid: number };

/**
 * Mounts a volume, and makes a file system first if there is nothing on it. May be repeated. What is on a volume
 * is its user's work, perhaps from another machine: no program on it gets rights, and no device node counts.
 * @param ownerOf whose it is
 */
export async function mountVolume(
  wish: VolumeWish,
  ownerOf: () => Promise<Owner>,
): Promise<VolumeReport> {
  const { serial, path } = wish;
  const device = findDisk(serial);
  if (device === undefined)
    return { serial, problem: 'this machine sees no disk of that serial (virtio_blk)' };
  try {
    const owner = await ownerOf();
    // whatever becomes of the rest: its jobs can use the disk itself
    chownSync(device, owner.uid, owner.gid);
    await mountAt(device, wish);
    chownSync(path, owner.uid, owner.gid);
    return { serial, device, path };
  } catch (error) {
    const { stderr = '' } = error as { stderr?: string };
    const reason = stderr.trim() === '' ? errorText(error) : stderr.trim();
    return { serial, device, problem: reason.slice(0, longestProblem) };
  }
}

async function mountAt(device: string, { path, isNew }: VolumeWish): Promise<void> {
  const there = mountPointOf(device);
  if (there === path) return;
  if (there !== undefined) throw new Error(`it is mounted at ${there} already`);
  makeMountPoint(path);
  await loadModules();
  const isBlank = await hasNothing(device);
  if (isBlank) await makeFileSystem(device);
  try {
    await mount(device, path);
  } catch (error) {
    // its making was cut off; what somebody has had is never made anew
    if (!isNew || isBlank) throw error;
    await makeFileSystem(device);
    await mount(device, path);
  }
}

async function mount(device: string, path: string): Promise<void> {
  await run(programPath('mount') ?? 'mount', ['-o', 'nosuid,nodev', device, path], options);
}

/** Without udev, too. */
function findDisk(serial: string): string | undefined {
  const disks = '/sys/block';
  const found = (existsSync(disks) ? readdirSync(disks) : []).find(
    (name) => readText(join(disks, name, 'serial')).trim() === serial,
  );
  return found === undefined ? undefined : `/dev/${basename(found)}`;
}

function mountPointOf(device: string): string | undefined {
  const lines = readText('/proc/mounts').split('\n');
  return lines.map((line) => line.split(' ')).find(([source]) => source === device)?.[1];
}

/** No part of it is a link, and nothing in it would be hidden. */
function makeMountPoint(path: string): void {
  const parents: string[] = [];
  for (let at = path; at !== '/'; at = dirname(at)) parents.unshift(at);
  for (const part of parents) {
    const found = lstatSync(part, { throwIfNoEntry: false });
    if (found === undefined) {
      mkdirSync(part, { mode: 0o755 });
      chownSync(part, 0, 0);
    } else if (!found.isDirectory()) throw new Error(`${part} is no directory`);
  }
  if (readdirSync(path).length > 0) throw new Error(`${path} is not empty`);
}

async function hasNothing(device: string): Promise<boolean> {
  await using file = await open(device, 'r');
  const size = Number(readText(`/sys/block/${basename(device)}/size`)) * 512;
  const isZero = async (start: number, length: number): Promise<boolean> => {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(length), 0, length, start);
    return buffer.subarray(0, bytesRead).every((byte) => byte === 0);
  };
  return (await isZero(0, headBytes)) && (await isZero(Math.max(0, size - tailBytes), tailBytes));
}

async function makeFileSystem(device: string): Promise<void> {
  const known = readText('/proc/filesystems').split(/\s+/);
  const usable = fileSystems.flatMap(({ type, program, args }) => {
    const file = programPath(program);
    return file !== undefined && known.includes(type) ? [{ file, args }] : [];
  });
  const [first] = usable;
  if (!first)
    throw new Error(
      `nothing in this machine makes a file system: it needs ${fileSystems
        .map(({ program, type }) => `${program} and a kernel with ${type}`)
        .join(', or ')}`,
    );
  await run(first.file, [...first.args, device], options);
}

/** Where the kernel has them apart, and the image a program that loads them. */
async function loadModules(): Promise<void> {
  const modprobe = programPath('modprobe');
  if (modprobe === undefined) return;
  for (const { type } of fileSystems)
    if (!readText('/proc/filesystems').split(/\s+/).includes(type))
      await run(modprobe, ['-q', type], options).catch(() => undefined); // a kernel without it
}

function programPath(name: string): string | undefined {
  return programDirectories.map((directory) => join(directory, name)).find(isExecutable);
}

function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}
