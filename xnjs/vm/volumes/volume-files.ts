import { mkdir, open, readFile, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { GridError } from '#kernel/errors.js';
import { VmError } from '../state.js';
import { exists, once } from '../whole-files.js';
import type { MachineVolume } from './volume.js';

const bytesPerMiB = 1024 * 1024;

/**
 * The disks of volumes: raw and sparse. Those that go with their machine are in its directory, the others in one
 * of their own.
 */
export class VolumeFiles {
  readonly #kept: string;

  /** @param directory absolute; of the volumes that outlive machines */
  constructor(directory: string) {
    this.#kept = directory;
  }

  /**
   * Makes those that are not there yet. May be repeated.
   * @param directory of the machine
   * @param targetId whose machine it is
   * @returns the file of each
   * @throws {@link VmError} `NOT_FOUND` the disk of one that was used before is gone; `CONFLICT` another has one
   */
  async prepare(
    volumes: readonly MachineVolume[],
    directory: string,
    targetId: string,
  ): Promise<{ readonly name: string; readonly file: string }[]> {
    const prepared = [];
    for (const { name, sizeMiB, volumeId, wasUsed } of volumes) {
      const own = join(directory, 'volumes', `${name}.raw`);
      const file = volumeId === undefined ? own : this.#fileOf(volumeId);
      if (wasUsed && !(await exists(file)))
        throw new VmError('NOT_FOUND', `the disk of the volume ${name} is gone`);
      await mkdir(dirname(file), { recursive: true, mode: 0o711 });
      const holder = volumeId === undefined ? targetId : await this.hold(volumeId, targetId);
      if (holder !== targetId) throw inUse(name, holder);
      await once(file, (draft) => makeSparse(draft, sizeMiB * bytesPerMiB));
      prepared.push({ name, file });
    }
    return prepared;
  }

  async has(volumeId: string): Promise<boolean> {
    return await exists(this.#fileOf(volumeId));
  }

  /** Which target system has it, whatever became of the database: it stands in a file beside it. */
  async holderOf(volumeId: string): Promise<string | undefined> {
    const file = this.#holderOf(volumeId);
    return (await exists(file)) ? await readFile(file, 'utf8') : undefined;
  }

  /** Before its machine can have it. @returns which one has it: another, if that was before */
  async hold(volumeId: string, targetId: string): Promise<string> {
    await mkdir(this.#kept, { recursive: true, mode: 0o711 });
    await once(this.#holderOf(volumeId), (draft) => writeDurably(draft, targetId));
    return (await this.holderOf(volumeId)) ?? targetId;
  }

  /** The machine of that target system is proven gone. @returns which one has it then: another, if that did before */
  async letGo(volumeId: string, targetId: string): Promise<string | undefined> {
    const holder = await this.holderOf(volumeId);
    if (holder !== targetId) return holder;
    await rm(this.#holderOf(volumeId), { force: true });
    return undefined;
  }

  /** What is there of it, complete or not. */
  async remove(volumeId: string): Promise<void> {
    for (const file of [this.#fileOf(volumeId), this.#holderOf(volumeId)]) {
      await rm(file, { force: true });
      await rm(`${file}.new`, { force: true });
    }
  }

  #holderOf(volumeId: string): string {
    return join(this.#kept, `${volumeId}.holder`);
  }

  #fileOf(volumeId: string): string {
    return join(this.#kept, `${volumeId}.raw`);
  }
}

export function inUse(name: string, targetId: string): GridError {
  const text = `the volume ${name} is in use by target system ${targetId}`;
  return new GridError('CONFLICT', text, { vmId: targetId });
}

async function writeDurably(path: string, text: string): Promise<void> {
  await using file = await open(path, 'wx', 0o600);
  await file.writeFile(text);
  await file.sync();
}

/** Durable: its name, which follows, must not survive a power cut that it does not. */
async function makeSparse(path: string, bytes: number): Promise<void> {
  await using file = await open(path, 'wx', 0o600);
  await file.truncate(bytes);
  await file.sync();
}
