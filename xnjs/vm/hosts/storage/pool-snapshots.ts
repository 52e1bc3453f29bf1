import { Readable } from 'node:stream';
import { asGridError, errorText, GridError } from '#kernel/errors.js';
import type { PoolVolumes } from '#kernel/libvirt/pool-volumes.js';
import { completeMagic } from '../../parking.js';
import { flattenMs } from '../../snapshots/flatten-disk.js';
import {
  hasDisk,
  memoryFileMiB,
  requireFree,
  type FlatDisk,
  type Flattening,
  type SnapshotFiles,
} from '../../snapshots/snapshot-files.js';
import { VmError } from '../../state.js';
import type { TargetSystem } from '../../target-system.js';
import { isNoSpace } from './copied-images.js';

export type PoolSnapshotsOptions = {
  readonly host: string;
  readonly volumes: PoolVolumes;
  /** Of the names of all volumes of a machine. */
  readonly prefixOf: (id: string) => string;
  /** @throws when this server may not act any more */
  readonly require: () => Promise<void>;
};

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
  readonly #options: PoolSnapshotsOptions;
  readonly #volumes: PoolVolumes;

  constructor(options: PoolSnapshotsOptions) {
    this.#options = options;
    this.#volumes = options.volumes;
  }

  async neededMiB(system: HasDisk & Pick<TargetSystem, 'parameters'>): Promise<number> {
    const disk = hasDisk(system) ? await this.#sizeOf(this.#overlay(system)) : 0;
    return memoryFileMiB(system) + Math.ceil(disk / bytesPerMiB);
  }

  async requireRoom({ id }: HasId, neededMiB: number): Promise<void> {
    // machines write there without a word to libvirt
    await this.#volumes.refresh();
    const bytes = await this.#volumes.availableBytes();
    requireFree(Math.floor(bytes / bytesPerMiB), neededMiB, id);
  }

  async begin(system: HasId, snapshotId: string): Promise<void> {
    const name = this.#memory(system, snapshotId);
    if (await this.#volumes.find(name)) return;
    await this.#volumes.create({ name, sizeBytes: 0, format: 'raw' });
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
    await this.#remove(this.#disk(system, snapshotId));
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
    await this.#remove(this.#laid(system));
  }

  async sizeMiB(system: HasDisk, snapshotId: string): Promise<number> {
    const names = [this.#memory(system, snapshotId), this.#disk(system, snapshotId)];
    const sizes = await Promise.all(names.map((name) => this.#sizeOf(name)));
    return Math.ceil(sizes.reduce((sum, size) => sum + size, 0) / bytesPerMiB);
  }

  async remove(system: HasId, snapshotId: string): Promise<void> {
    for (const name of await this.#volumes.list(this.#own(system, snapshotId)))
      await this.#remove(name);
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
    const name = `${this.#own(system, snapshotId)}image-${taskId}`;
    await tell(`the disk is being copied on host ${this.#options.host}`);
    const from = this.#disk(system, snapshotId);
    signal.throwIfAborted();
    await this.#copy(system, from, name, { isFlat: true, timeoutMs: flattenMs }).catch(asFinal);
    const stream = (): AsyncIterable<Buffer> => this.#volumes.download(name, 0, { signal });
    return {
      sizeBytes: await this.#sizeOf(name),
      source: () => Readable.from(stream(), { objectMode: false }),
      // what is left goes with the snapshot
      [Symbol.asyncDispose]: () => this.#remove(name).catch(() => undefined),
    };
  }

  async #copy(
    { id }: HasId,
    from: string,
    to: string,
    how: { readonly isFlat?: boolean; readonly timeoutMs: number } = { timeoutMs: cloneMs },
  ): Promise<void> {
    await this.#remove(to);
    try {
      await this.#volumes.clone({ from, to, format: 'qcow2', ...how });
    } catch (cause) {
      if (!isNoSpace(cause)) throw cause;
      const text = `no space left for a copy of its disk on host ${this.#options.host}`;
      throw new VmError('STORAGE_FULL', text, { vmId: id }, { cause });
    }
  }

  async #remove(name: string): Promise<void> {
    await this.#options.require();
    await this.#volumes.remove(name);
  }

  /** 0: there is no such volume. */
  async #sizeOf(name: string): Promise<number> {
    return (await this.#volumes.find(name))?.sizeBytes ?? 0;
  }

  #own({ id }: HasId, snapshotId: string): string {
    return `${this.#options.prefixOf(id)}snapshot-${snapshotId}-`;
  }

  #memory(system: HasId, snapshotId: string): string {
    return `${this.#own(system, snapshotId)}memory`;
  }

  #disk(system: HasId, snapshotId: string): string {
    return `${this.#own(system, snapshotId)}disk`;
  }

  #overlay({ id }: HasId): string {
    return `${this.#options.prefixOf(id)}overlay`;
  }

  #laid({ id }: HasId): string {
    return `${this.#options.prefixOf(id)}reverted`;
  }
}

/** As where the disk is flattened by a program of ours; the paths of the host stay there. */
function asFinal(error: unknown): never {
  if (asGridError(error)?.row.retry !== false) throw error;
  const text = 'the disk cannot be copied on its host';
  throw new GridError('CONFLICT', text, { reason: errorText(error) }, { cause: error });
}
