import { mkdir, open, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
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
   * @returns the file of each
   * @throws {@link VmError} `NOT_FOUND` the disk of one that was used before is gone
   */
  async prepare(
    volumes: readonly MachineVolume[],
    directory: string,
  ): Promise<{ readonly name: string; readonly file: string }[]> {
    const prepared = [];
    for (const { name, sizeMiB, volumeId, wasUsed } of volumes) {
      const own = join(directory, 'volumes', `${name}.raw`);
      const file = volumeId === undefined ? own : this.#fileOf(volumeId);
      if (wasUsed && !(await exists(file)))
        throw new VmError('NOT_FOUND', `the disk of the volume ${name} is gone`);
      await mkdir(dirname(file), { recursive: true, mode: 0o711 });
      await once(file, (draft) => makeSparse(draft, sizeMiB * bytesPerMiB));
      prepared.push({ name, file });
    }
    return prepared;
  }

  async has(volumeId: string): Promise<boolean> {
    return await exists(this.#fileOf(volumeId));
  }

  /** What is there of it, complete or not. */
  async remove(volumeId: string): Promise<void> {
    const file = this.#fileOf(volumeId);
    await rm(file, { force: true });
    await rm(`${file}.new`, { force: true });
  }

  #fileOf(volumeId: string): string {
    return join(this.#kept, `${volumeId}.raw`);
  }
}

/** Durable: its name, which follows, must not survive a power cut that it does not. */
async function makeSparse(path: string, bytes: number): Promise<void> {
  await using file = await open(path, 'wx', 0o600);
  await file.truncate(bytes);
  await file.sync();
}
