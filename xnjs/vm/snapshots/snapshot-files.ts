import { execFile } from 'node:child_process';
import { mkdir, open, rename, rm, stat, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { errorText } from '#kernel/errors.js';
import { VmError } from '../state.js';
import type { TargetSystem } from '../target-system.js';
import type { Workspace } from '../workspace.js';

const run = promisify(execFile);
/** A disk is copied while its machine stands still. */
const copyTimeoutMs = 900_000;
const bytesPerMiB = 1024 * 1024;

type HasDisk = Pick<TargetSystem, 'id' | 'image'>;

/**
 * The files of snapshots: `snapshots/<id>/memory` and, of machines with a disk, `disk.qcow2` beside it. They
 * lie in the directory of their target system, and go with it. Each step may be repeated.
 */
export class SnapshotFiles {
  readonly #workspace: Pick<Workspace, 'directoryOf' | 'parkedMemory'>;

  constructor(workspace: Pick<Workspace, 'directoryOf' | 'parkedMemory'>) {
    this.#workspace = workspace;
  }

  memoryOf({ id }: Pick<TargetSystem, 'id'>, snapshotId: string): string {
    return join(this.#directory(id, snapshotId), 'memory');
  }

  diskOf({ id }: Pick<TargetSystem, 'id'>, snapshotId: string): string {
    return join(this.#directory(id, snapshotId), 'disk.qcow2');
  }

  /** The most that a snapshot of it would take now. */
  async neededMiB(system: HasDisk & Pick<TargetSystem, 'parameters'>): Promise<number> {
    const { memoryMiB, memoryMaxMiB = memoryMiB } = system.parameters;
    const disk = hasDisk(system) ? await takes(this.#overlay(system.id)) : 0;
    // beside the memory itself its file has the state of devices
    return memoryMaxMiB + deviceStateMiB + Math.ceil(disk / bytesPerMiB);
  }

  /** What a snapshot's disk takes with what it is based on. */
  async flatMiB(system: HasDisk, snapshotId: string): Promise<number> {
    const base = join(this.#workspace.directoryOf(system.id), 'base.qcow2');
    const sizes = await Promise.all([base, this.diskOf(system, snapshotId)].map(takes));
    return Math.ceil(sizes.reduce((sum, size) => sum + size, 0) / bytesPerMiB);
  }

  /** @throws {@link VmError} `STORAGE_FULL` */
  async requireRoom({ id }: Pick<TargetSystem, 'id'>, neededMiB: number): Promise<void> {
    const { bavail, bsize } = await statfs(this.#workspace.directoryOf(id));
    const freeMiB = Math.floor((bavail * bsize) / bytesPerMiB);
    if (freeMiB < neededMiB)
      throw new VmError(
        'STORAGE_FULL',
        `no room for it on the disk of the host: ${neededMiB} MiB may be needed, ${freeMiB} MiB are free`,
        { vmId: id },
      );
  }

  async begin({ id }: Pick<TargetSystem, 'id'>, snapshotId: string): Promise<void> {
    await mkdir(this.#directory(id, snapshotId), { recursive: true, mode: 0o700 });
  }

  /** Of a machine whose memory is in a file already. */
  async keepParked(system: Pick<TargetSystem, 'id'>, snapshotId: string): Promise<void> {
    const from = this.#workspace.parkedMemory(system);
    await copyWhole(from, this.memoryOf(system, snapshotId), system.id);
  }

  /** As {@link layDisk}, of one that is parked in a file of ours. @throws {@link VmError} `STORAGE_FULL` */
  async layParked(system: Pick<TargetSystem, 'id'>, snapshotId: string): Promise<void> {
    await rm(this.#laidMemory(system), { force: true });
    await copyWhole(this.memoryOf(system, snapshotId), this.#laidMemory(system), system.id);
  }

  /** In the place of what it is parked as; what was laid is of this snapshot. */
  async putParked(system: Pick<TargetSystem, 'id'>, snapshotId: string): Promise<void> {
    await copyWhole(this.memoryOf(system, snapshotId), this.#laidMemory(system), system.id);
    await rename(this.#laidMemory(system), this.#workspace.parkedMemory(system));
  }

  async dropDisk(system: Pick<TargetSystem, 'id'>, snapshotId: string): Promise<void> {
    await rm(this.diskOf(system, snapshotId), { force: true });
  }

  /** Keeps the disk of a machine that stands still. @throws {@link VmError} `STORAGE_FULL` */
  async keepDisk(system: HasDisk, snapshotId: string): Promise<void> {
    if (hasDisk(system))
      await copyWhole(this.#overlay(system.id), this.diskOf(system, snapshotId), system.id);
  }

  /**
   * A copy of a snapshot's disk beside the one that the machine has, in whose place {@link putDisk} puts it.
   * @throws {@link VmError} `STORAGE_FULL`
   */
  async layDisk(system: HasDisk, snapshotId: string): Promise<void> {
    if (!hasDisk(system)) return;
    await this.dropLaid(system);
    await copyWhole(this.diskOf(system, snapshotId), this.#laid(system.id), system.id);
  }

  /** While the machine does not run; what was laid is of this snapshot. */
  async putDisk(system: HasDisk, snapshotId: string): Promise<void> {
    if (!hasDisk(system)) return;
    await copyWhole(this.diskOf(system, snapshotId), this.#laid(system.id), system.id);
    await rename(this.#laid(system.id), this.#overlay(system.id));
  }

  async dropLaid(system: Pick<TargetSystem, 'id'>): Promise<void> {
    await rm(this.#laid(system.id), { force: true });
    await rm(this.#laidMemory(system), { force: true });
  }

  async sizeMiB(system: HasDisk, snapshotId: string): Promise<number> {
    const sizes = [this.memoryOf(system, snapshotId), this.diskOf(system, snapshotId)].map(takes);
    const bytes = (await Promise.all(sizes)).reduce((sum, size) => sum + size, 0);
    return Math.ceil(bytes / bytesPerMiB);
  }

  async remove({ id }: Pick<TargetSystem, 'id'>, snapshotId: string): Promise<void> {
    await rm(this.#directory(id, snapshotId), { recursive: true, force: true });
  }

  #directory(id: string, snapshotId: string): string {
    return join(this.#workspace.directoryOf(id), 'snapshots', snapshotId);
  }

  #overlay(id: string): string {
    return join(this.#workspace.directoryOf(id), 'overlay.qcow2');
  }

  #laidMemory(system: Pick<TargetSystem, 'id'>): string {
    return `${this.#workspace.parkedMemory(system)}.reverted`;
  }

  #laid(id: string): string {
    return join(this.#workspace.directoryOf(id), 'reverted.qcow2');
  }
}

const deviceStateMiB = 16;

/** Of its own, that is: what it writes outlives its process. */
export function hasDisk({ image }: Pick<TargetSystem, 'image'>): boolean {
  return image.metadata.format === 'qcow2';
}

/** Bytes on the disk; 0: there is no such file. */
async function takes(path: string): Promise<number> {
  const found = await stat(path).catch(() => undefined);
  return found ? Math.min(found.blocks * 512, found.size) : 0;
}

/** Complete or not there; shares the blocks where the file system can. One that is there stays. */
async function copyWhole(from: string, to: string, vmId: string): Promise<void> {
  if (await stat(to).catch(() => undefined)) return;
  const draft = `${to}.new`;
  try {
    await run('cp', ['--reflink=auto', '--sparse=always', '--', from, draft], {
      timeout: copyTimeoutMs,
      env: { ...process.env, LC_ALL: 'C' },
    });
    {
      await using file = await open(draft, 'r+');
      await file.sync();
    }
    await rename(draft, to);
  } catch (cause) {
    await rm(draft, { force: true });
    const { stderr = '' } = cause as { stderr?: string };
    if (/No space left|Disk quota/.test(stderr + errorText(cause)))
      throw new VmError(
        'STORAGE_FULL',
        'no space left for a copy of its disk or memory',
        { vmId },
        { cause },
      );
    throw cause;
  }
}
