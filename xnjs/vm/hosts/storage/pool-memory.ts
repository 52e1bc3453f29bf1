import { Readable } from 'node:stream';
import type { PoolVolumes } from '#kernel/libvirt/pool-volumes.js';
import { memoryFileMiB } from '../../snapshots/snapshot-files.js';
import type { MemoryFile } from '../../tiers/memory-file.js';
import type { MemoryFiles, Which } from '../../tiers/memory-files.js';
import type { Template } from '../../tiers/template.js';
import { MachineVolumes, type MachineVolumesOptions } from './machine-volumes.js';

export type PoolMemoryOptions = MachineVolumesOptions & { readonly stopping: AbortSignal };

type OfTemplate = Pick<Template, 'id' | 'parameters'>;

const copyMs = 300_000;
/** Of all of it, through the connection. */
const readMs = 600_000;
const pieceMs = 60_000;

/**
 * Saved memory in the storage pool of its host (ADR 042): copied there by libvirt, and written to at the places that
 * say whose it is. All names begin as those of the template's other volumes, with which they go.
 */
export class PoolMemory implements MemoryFiles {
  readonly #options: PoolMemoryOptions;
  readonly #volumes: PoolVolumes;
  readonly #own: MachineVolumes;

  constructor(options: PoolMemoryOptions) {
    this.#options = options;
    this.#volumes = options.volumes;
    this.#own = new MachineVolumes(options);
  }

  async begin(template: OfTemplate): Promise<string> {
    // with the copy that waits for its machine
    await this.#own.requireRoom(2 * memoryFileMiB(template), template.id);
    return await this.#own.ensure(this.#name(template));
  }

  open(template: OfTemplate, { copyId }: Which = {}): Promise<MemoryFile & AsyncDisposable> {
    const name = this.#name(template, copyId);
    const within = (ms: number): { signal: AbortSignal } => ({
      signal: AbortSignal.any([this.#options.stopping, AbortSignal.timeout(ms)]),
    });
    return Promise.resolve({
      chunks: () => this.#volumes.download(name, 0, within(readMs)),
      read: async (at, length) => {
        const how = { ...within(pieceMs), length };
        const chunks: Buffer[] = [];
        for await (const chunk of this.#volumes.download(name, at, how)) chunks.push(chunk);
        return Buffer.concat(chunks);
      },
      write: async (at, bytes) => {
        const open = (): Readable => Readable.from([bytes]);
        await this.#volumes.upload(name, open, at, within(pieceMs));
      },
      [Symbol.asyncDispose]: () => Promise.resolve(),
    });
  }

  async copy(template: OfTemplate, copyId: string): Promise<void> {
    const how = { format: 'raw', timeoutMs: copyMs, vmId: copyId, what: 'saved memory' } as const;
    await this.#own.copy(this.#name(template), this.#name(template, copyId), how);
  }

  async pathOf(template: OfTemplate, copyId: string): Promise<string> {
    const found = await this.#volumes.find(this.#name(template, copyId));
    if (found) return found.path;
    throw new Error('the copy of the saved memory is gone');
  }

  async drop(template: OfTemplate, copyId: string): Promise<void> {
    await this.#own.remove(this.#name(template, copyId));
  }

  async copies(template: OfTemplate): Promise<string[]> {
    const begin = this.#name(template, '');
    return (await this.#volumes.list(begin)).map((name) => name.slice(begin.length));
  }

  #name(template: OfTemplate, copyId?: string): string {
    return this.#own.nameOf(template, copyId === undefined ? 'memory' : `copy-${copyId}`);
  }
}
