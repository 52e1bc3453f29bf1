import type { Clone, PoolVolumes } from '#kernel/libvirt/pool-volumes.js';
import { requireFree } from '../../disk-room.js';
import { VmError } from '../../state.js';
import { isNoSpace } from './copied-images.js';

export type MachineVolumesOptions = {
  readonly host: string;
  readonly volumes: PoolVolumes;
  /** Of the names of all volumes of a machine. */
  readonly prefixOf: (id: string) => string;
  /** @throws when this server may not act any more */
  readonly require: () => Promise<void>;
};

type Copied = Omit<Clone, 'from' | 'to'> & {
  readonly vmId: string;
  /** For people. */
  readonly what: string;
};

const bytesPerMiB = 1024 ** 2;

/** Volumes of machines in the storage pool of their host, which go with these: their names begin alike. */
export class MachineVolumes {
  readonly #options: MachineVolumesOptions;
  readonly #volumes: PoolVolumes;

  constructor(options: MachineVolumesOptions) {
    this.#options = options;
    this.#volumes = options.volumes;
  }

  nameOf({ id }: { readonly id: string }, rest: string): string {
    return this.#options.prefixOf(id) + rest;
  }

  /** @throws `STORAGE_FULL` */
  async requireRoom(neededMiB: number, vmId: string): Promise<void> {
    // machines write there without a word to libvirt
    await this.#volumes.refresh();
    const bytes = await this.#volumes.availableBytes();
    requireFree(Math.floor(bytes / bytesPerMiB), neededMiB, vmId);
  }

  /** Makes one that a machine writes to, if there is none. @returns its path on the host */
  async ensure(name: string): Promise<string> {
    const volume =
      (await this.#volumes.find(name)) ??
      (await this.#volumes.create({ name, sizeBytes: 0, format: 'raw' }));
    return volume.path;
  }

  /** Anew: one whose copying was cut off looks like a whole one. @throws `STORAGE_FULL` */
  async copy(from: string, to: string, { vmId, what, ...how }: Copied): Promise<void> {
    await this.remove(to);
    try {
      await this.#volumes.clone({ from, to, ...how });
    } catch (cause) {
      if (!isNoSpace(cause)) throw cause;
      const text = `no space left for a copy of ${what} on host ${this.#options.host}`;
      throw new VmError('STORAGE_FULL', text, { vmId }, { cause });
    }
  }

  async remove(name: string): Promise<void> {
    await this.#options.require();
    await this.#volumes.remove(name);
  }
}
