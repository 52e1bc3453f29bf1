import { Readable } from 'node:stream';
import { asGridError, errorText, GridError } from '#kernel/errors.js';
import type { PoolVolumes } from '#kernel/libvirt/pool-volumes.js';
import { completeMagic } from '../../parking.js';
import { flattenMs } from '../../snapshots/flatten-disk.js';
import {
  hasDisk,
  memoryFileMiB,
  type FlatDisk,
  type Flattening,
  type SnapshotFiles,
} from '../../snapshots/snapshot-files.js';
import type { TargetSystem } from '../../target-system.js';
import { MachineVolumes, type MachineVolumesOptions } from './machine-volumes.js';

type HasId = Pick<TargetSystem, 'id'>;
type HasDisk = Pick<TargetSystem, 'id' | 'image'>;

/** A disk is copied while its machine stands still. */
const cloneMs = 900_000;
const bytesPerMiB = 1024 ** 2;

/**
 * Snapshots in the storage pool of their machine's host, beside its other volumes (ADR 042). libvirt renames no
 * volume, and one whose copying was cut off looks like a whole one: whatever may be such is made anew, from
 * something that nobody has written to since.
 */
export class PoolSnapshots implements SnapshotFiles {
  readonly #options: MachineVolumesOptions;
  readonly #volumes: PoolVolumes;
  readonly #own: MachineVolumes;

  constructor(options: MachineVolumesOptions) {
    this.#options = options;
    this.#volumes = options.volumes;
    this.#own = new MachineVolumes(options);
  }

  async neededMiB(system: HasDisk & Pick<TargetSystem, 'parameters'>): Promise<number> {
    const disk = hasDisk(system) ? await this.#sizeOf(this.#overlay(system)) : 0;
    return memoryFileMiB(system) + Math.ceil(disk / bytesPerMiB);
  }

  async requireRoom({ id }: HasId, neededMiB: number): Promise<void> {
    await this.#own.requireRoom(neededMiB, id);
  }

  async begin(system: HasId, snapshotId: string): Promise<void> {
    await this.#own.ensure(this.#memory(system, snapshotId));
  }

  async memoryOf(system: HasId, snapshotId: string): Promise<string> {
    const found = await this.#volumes.find(this.#memory(system, snapshotId));
    if (found) return found.path;
    throw new GridError('HYPERVISOR_FAILED', 'the memory of the snapshot is gone', {
      vmId: system.id,
    });
  }

  async isSaved(system: HasId, snapshotId: string): Promise<boolean> {
    const name = this.#memory(system, snapshotId);
    if ((await this.#sizeOf(name)) < completeMagic.length) return false;
    const chunks: Buffer[] = [];
    const how = { signal: AbortSignal.timeout(60_000), length: completeMagic.length };
    for await (const chunk of this.#volumes.download(name, 0, how)) chunks.push(chunk);
    return Buffer.concat(chunks).toString('latin1') === completeMagic;
  }

  async dropDisk(system: HasId, snapshotId: string): Promise<void> {
    await this.#own.remove(this.#disk(system, snapshotId));
  }

  async keepDisk(system: HasDisk, snapshotId: string): Promise<void> {
    if (hasDisk(system))
      await this.#copy(system, this.#overlay(system), this.#disk(system, snapshotId));
  }

  async layDisk(system: HasDisk, snapshotId: string): Promise<void> {
    if (hasDisk(system))
      await this.#copy(system, this.#disk(system, snapshotId), this.#laid(system));
  }

  /** What was laid has kept its room free until now. */
  async putDisk(system: HasDisk, snapshotId: string): Promise<void> {
    if (!hasDisk(system)) return;
    await this.dropLaid(system);
    await this.#copy(system, this.#disk(system, snapshotId), this.#overlay(system));
  }

  async dropLaid(system: HasId): Promise<void> {
    await this.#own.remove(this.#laid(system));
  }

  async sizeMiB(system: HasDisk, snapshotId: string): Promise<number> {
    const names = [this.#memory(system, snapshotId), this.#disk(system, snapshotId)];
    const sizes = await Promise.all(names.map((name) => this.#sizeOf(name)));
    return Math.ceil(sizes.reduce((sum, size) => sum + size, 0) / bytesPerMiB);
  }

  async remove(system: HasId, snapshotId: string): Promise<void> {
    for (const name of await this.#volumes.list(this.#of(system, snapshotId)))
      await this.#own.remove(name);
  }

  async flatMiB({ id, image }: HasDisk, snapshotId: string): Promise<number> {
    const own = await this.#sizeOf(this.#disk({ id }, snapshotId));
    return Math.ceil((own + (image.parts.disk?.sizeBytes ?? 0)) / bytesPerMiB);
  }

  /** It is read from its host as it is uploaded. */
  async flatten(
    system: HasDisk,
    snapshotId: string,
    { taskId, tell, signal }: Flattening,
  ): Promise<FlatDisk> {
    const name = `${this.#of(system, snapshotId)}image-${taskId}`;
    await tell(`the disk is being copied on host ${this.#options.host}`);
    const from = this.#disk(system, snapshotId);
    signal.throwIfAborted();
    await this.#copy(system, from, name, { isFlat: true, timeoutMs: flattenMs }).catch(asFinal);
    const stream = (): AsyncIterable<Buffer> => this.#volumes.download(name, 0, { signal });
    return {
      sizeBytes: await this.#sizeOf(name),
      source: () => Readable.from(stream(), { objectMode: false }),
      // what is left goes with the snapshot
      [Symbol.asyncDispose]: () => this.#own.remove(name).catch(() => undefined),
    };
  }

  async #copy(
    { id: vmId }: HasId,
    from: string,
    to: string,
    how: { readonly isFlat?: boolean; readonly timeoutMs: number } = { timeoutMs: cloneMs },
  ): Promise<void> {
    await this.#own.copy(from, to, { format: 'qcow2', ...how, vmId, what: 'its disk' });
  }

  /** 0: there is no such volume. */
  async #sizeOf(name: string): Promise<number> {
    return (await this.#volumes.find(name))?.sizeBytes ?? 0;
  }

  #of(system: HasId, snapshotId: string): string {
    return this.#own.nameOf(system, `snapshot-${snapshotId}-`);
  }

  #memory(system: HasId, snapshotId: string): string {
    return `${this.#of(system, snapshotId)}memory`;
  }

  #disk(system: HasId, snapshotId: string): string {
    return `${this.#of(system, snapshotId)}disk`;
  }

  #overlay(system: HasId): string {
    return this.#own.nameOf(system, 'overlay');
  }

  #laid(system: HasId): string {
    return this.#own.nameOf(system, 'reverted');
  }
}

/** As where the disk is flattened by a program of ours; the paths of the host stay there. */
function asFinal(error: unknown): never {
  if (asGridError(error)?.row.retry !== false) throw error;
  const text = 'the disk cannot be copied on its host';
  throw new GridError('CONFLICT', text, { reason: errorText(error) }, { cause: error });
}
