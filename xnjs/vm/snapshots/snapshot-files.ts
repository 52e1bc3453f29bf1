import { execFile } from 'node:child_process';
import { createReadStream, existsSync } from 'node:fs';
import { mkdir, open, rename, rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { Readable } from 'node:stream';
import { promisify } from 'node:util';
import { errorText } from '#kernel/errors.js';
import { requireRoom, takes, unreachable } from '../disk-room.js';
import { isComplete } from '../parking.js';
import { VmError } from '../state.js';
import type { TargetSystem } from '../target-system.js';
import type { Workspace } from '../workspace.js';
import { flattenDisk } from './flatten-disk.js';

const run = promisify(execFile);
/** A disk is copied while its machine stands still. */
const copyTimeoutMs = 900_000;
const bytesPerMiB = 1024 * 1024;

type HasId = Pick<TargetSystem, 'id'>;
type HasDisk = Pick<TargetSystem, 'id' | 'image'>;

/** Of a task that makes an image of a snapshot. */
export type Flattening = {
  readonly taskId: string;
  readonly tell: (text: string) => Promise<unknown>;
  readonly signal: AbortSignal;
};
/** A disk without what it was based on; gone when it is disposed of. */
export type FlatDisk = AsyncDisposable & {
  readonly sizeBytes: number;
  readonly source: () => Readable;
};

/**
 * Where the files of snapshots are: memory and, of machines with a disk, that beside it. Each step may be repeated;
 * what is not known of them is thrown as `HYPERVISOR_UNAVAILABLE`, and never taken for absent.
 */
export type SnapshotFiles = {
  /** The most that a snapshot of it would take now. */
  neededMiB(system: HasDisk & Pick<TargetSystem, 'parameters'>): Promise<number>;
  /** @throws {@link VmError} `STORAGE_FULL` */
  requireRoom(system: HasId, neededMiB: number): Promise<void>;
  begin(system: HasId, snapshotId: string): Promise<void>;
  /** The memory's path on the machine's host. */
  memoryOf(system: HasId, snapshotId: string): Promise<string>;
  /** Whether all of the memory is there. */
  isSaved(system: HasId, snapshotId: string): Promise<boolean>;
  dropDisk(system: HasId, snapshotId: string): Promise<void>;
  /** Keeps the disk of a machine that stands still. @throws {@link VmError} `STORAGE_FULL` */
  keepDisk(system: HasDisk, snapshotId: string): Promise<void>;
  /** A copy of a snapshot's disk beside the one that the machine has. @throws {@link VmError} `STORAGE_FULL` */
  layDisk(system: HasDisk, snapshotId: string): Promise<void>;
  /** In the place of the disk of a machine that does not run; what was laid is of this snapshot. */
  putDisk(system: HasDisk, snapshotId: string): Promise<void>;
  dropLaid(system: HasId): Promise<void>;
  sizeMiB(system: HasDisk, snapshotId: string): Promise<number>;
  remove(system: HasId, snapshotId: string): Promise<void>;
  /** What a snapshot's disk takes with what it is based on. */
  flatMiB(system: HasDisk, snapshotId: string): Promise<number>;
  /** Made where the snapshot is. */
  flatten(system: HasDisk, snapshotId: string, how: Flattening): Promise<FlatDisk>;
  /** Of machines that are parked in files there; absent: none is. */
  readonly parked?: ParkedFiles;
};

/** As with disks. */
export type ParkedFiles = {
  keep(system: HasId, snapshotId: string): Promise<void>;
  /** @throws {@link VmError} `STORAGE_FULL` */
  lay(system: HasId, snapshotId: string): Promise<void>;
  put(system: HasId, snapshotId: string): Promise<void>;
};

/**
 * The files of snapshots: `snapshots/<id>/memory` and, of machines with a disk, `disk.qcow2` beside it. They
 * lie in the directory of their target system, and go with it. Each step may be repeated.
 */
export class OwnSnapshotFiles implements SnapshotFiles {
  /** Of one whose memory is in a file of ours already. */
  readonly parked: ParkedFiles = {
    keep: async (system, snapshotId) => {
      const memory = this.#memoryOf(system, snapshotId);
      await copyWhole(this.#workspace.parkedMemory(system), memory, system.id);
    },
    lay: async (system, snapshotId) => {
      await rm(this.#laidMemory(system), { force: true });
      await copyWhole(this.#memoryOf(system, snapshotId), this.#laidMemory(system), system.id);
    },
    put: async (system, snapshotId) => {
      await copyWhole(this.#memoryOf(system, snapshotId), this.#laidMemory(system), system.id);
      await rename(this.#laidMemory(system), this.#workspace.parkedMemory(system));
    },
  };
  readonly #workspace: Pick<Workspace, 'directoryOf' | 'parkedMemory'>;

  constructor(workspace: Pick<Workspace, 'directoryOf' | 'parkedMemory'>) {
    this.#workspace = workspace;
  }

  memoryOf(system: HasId, snapshotId: string): Promise<string> {
    return Promise.resolve(this.#memoryOf(system, snapshotId));
  }

  async isSaved(system: HasId, snapshotId: string): Promise<boolean> {
    if (await isComplete(this.#memoryOf(system, snapshotId))) return true;
    this.#requireMounted(system);
    return false;
  }

  async neededMiB(system: HasDisk & Pick<TargetSystem, 'parameters'>): Promise<number> {
    const disk = hasDisk(system) ? await takes(this.#overlay(system.id)) : 0;
    return memoryFileMiB(system) + Math.ceil(disk / bytesPerMiB);
  }

  async flatMiB(system: HasDisk, snapshotId: string): Promise<number> {
    const base = join(this.#workspace.directoryOf(system.id), 'base.qcow2');
    const sizes = await Promise.all([base, this.#diskOf(system, snapshotId)].map(takes));
    return Math.ceil(sizes.reduce((sum, size) => sum + size, 0) / bytesPerMiB);
  }

  async flatten(
    system: HasDisk,
    snapshotId: string,
    { taskId, tell, signal }: Flattening,
  ): Promise<FlatDisk> {
    const from = this.#diskOf(system, snapshotId);
    const path = `${from}.${taskId}.image`;
    await flattenDisk(from, path, { vmId: system.id, tell, signal });
    return {
      sizeBytes: (await stat(path)).size,
      source: () => createReadStream(path),
      [Symbol.asyncDispose]: () => rm(path, { force: true }),
    };
  }

  async requireRoom({ id }: HasId, neededMiB: number): Promise<void> {
    await requireRoom(this.#workspace.directoryOf(id), neededMiB, id);
  }

  async begin({ id }: HasId, snapshotId: string): Promise<void> {
    await mkdir(this.#directory(id, snapshotId), { recursive: true, mode: 0o700 });
  }

  async dropDisk(system: HasId, snapshotId: string): Promise<void> {
    await rm(this.#diskOf(system, snapshotId), { force: true });
  }

  async keepDisk(system: HasDisk, snapshotId: string): Promise<void> {
    if (hasDisk(system))
      await copyWhole(this.#overlay(system.id), this.#diskOf(system, snapshotId), system.id);
  }

  async layDisk(system: HasDisk, snapshotId: string): Promise<void> {
    if (!hasDisk(system)) return;
    await this.dropLaid(system);
    await copyWhole(this.#diskOf(system, snapshotId), this.#laid(system.id), system.id);
  }

  async putDisk(system: HasDisk, snapshotId: string): Promise<void> {
    if (!hasDisk(system)) return;
    await copyWhole(this.#diskOf(system, snapshotId), this.#laid(system.id), system.id);
    await rename(this.#laid(system.id), this.#overlay(system.id));
  }

  async dropLaid(system: HasId): Promise<void> {
    await rm(this.#laid(system.id), { force: true });
    await rm(this.#laidMemory(system), { force: true });
  }

  async sizeMiB(system: HasDisk, snapshotId: string): Promise<number> {
    const sizes = [this.#memoryOf(system, snapshotId), this.#diskOf(system, snapshotId)].map(takes);
    const bytes = (await Promise.all(sizes)).reduce((sum, size) => sum + size, 0);
    if (bytes === 0) this.#requireMounted(system);
    return Math.ceil(bytes / bytesPerMiB);
  }

  async remove({ id }: HasId, snapshotId: string): Promise<void> {
    await rm(this.#directory(id, snapshotId), { recursive: true, force: true });
  }

  /** Where the file system is not mounted there are no directories of machines either. */
  #requireMounted({ id }: HasId): void {
    if (!existsSync(dirname(this.#workspace.directoryOf(id)))) throw unreachable();
  }

  #memoryOf({ id }: HasId, snapshotId: string): string {
    return join(this.#directory(id, snapshotId), 'memory');
  }

  #diskOf({ id }: HasId, snapshotId: string): string {
    return join(this.#directory(id, snapshotId), 'disk.qcow2');
  }

  #directory(id: string, snapshotId: string): string {
    return join(this.#workspace.directoryOf(id), 'snapshots', snapshotId);
  }

  #overlay(id: string): string {
    return join(this.#workspace.directoryOf(id), 'overlay.qcow2');
  }

  #laidMemory(system: HasId): string {
    return `${this.#workspace.parkedMemory(system)}.reverted`;
  }

  #laid(id: string): string {
    return join(this.#workspace.directoryOf(id), 'reverted.qcow2');
  }
}

const deviceStateMiB = 16;

/** The most that the file with a machine's memory takes: beside that it has the state of devices. */
export function memoryFileMiB({ parameters }: Pick<TargetSystem, 'parameters'>): number {
  const { memoryMiB, memoryMaxMiB = memoryMiB } = parameters;
  return memoryMaxMiB + deviceStateMiB;
}

/** Of its own, that is: what it writes outlives its process. */
export function hasDisk({ image }: Pick<TargetSystem, 'image'>): boolean {
  return image.metadata.format === 'qcow2';
}

/** Complete or not there; shares the blocks where the file system can. One that is there stays. */
async function copyWhole(from: string, to: string, vmId: string): Promise<void> {
  if (await stat(to).catch(() => undefined)) return;
  const draft = `${to}.new`;
  try {
    // a program that outlived the server that started it may still write to that one
    await rm(draft, { force: true });
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
