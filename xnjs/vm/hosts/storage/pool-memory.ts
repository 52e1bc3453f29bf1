import { Readable } from 'node:stream';
import type { PoolVolumes } from '#kernel/libvirt/pool-volumes.js';
import { memoryFileMiB, requireFree } from '../../snapshots/snapshot-files.js';
import { VmError } from '../../state.js';
import type { MemoryFile } from '../../tiers/memory-file.js';
import type { MemoryFiles, Which } from '../../tiers/memory-files.js';
import type { Template } from '../../tiers/template.js';
import { isNoSpace } from './copied-images.js';

export type PoolMemoryOptions = {
  readonly host: string;
  readonly volumes: PoolVolumes;
  /** Of the names of all volumes of a machine. */
  readonly prefixOf: (id: string) => string;
  /** @throws when this server may not act any more */
  readonly require: () => Promise<void>;
  readonly stopping: AbortSignal;
};

type OfTemplate = Pick<Template, 'id' | 'parameters'>;

const copyMs = 300_000;
/** Of all of it, through the connection. */
const readMs = 600_000;
const pieceMs = 60_000;
const bytesPerMiB = 1024 ** 2;

/**
 * Saved memory in the storage pool of its host (ADR 042): copied there by libvirt, and written to at the places that
 * say whose it is. All names begin as those of the template's other volumes, with which they go.
 */
export class PoolMemory implements MemoryFiles {
  readonly #options: PoolMemoryOptions;
  readonly #volumes: PoolVolumes;

  constructor(options: PoolMemoryOptions) {
    this.#options = options;
    this.#volumes = options.volumes;
  }

  async begin(template: OfTemplate): Promise<string> {
    // machines write there without a word to libvirt
    await this.#volumes.refresh();
    const free = Math.floor((await this.#volumes.availableBytes()) / bytesPerMiB);
    // with the copy that waits for its machine
    requireFree(free, 2 * memoryFileMiB(template), template.id);
    const name = this.#name(template);
    const found = await this.#volumes.find(name);
    if (found) return found.path;
    return (await this.#volumes.create({ name, sizeBytes: 0, format: 'raw' })).path;
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

  /** One whose copying was cut off looks like a whole one. */
  async copy(template: OfTemplate, copyId: string): Promise<void> {
    await this.drop(template, copyId);
    const [from, to] = [this.#name(template), this.#name(template, copyId)];
    try {
      await this.#volumes.clone({ from, to, format: 'raw', timeoutMs: copyMs });
    } catch (cause) {
      if (!isNoSpace(cause)) throw cause;
      const text = `no space left for a copy of saved memory on host ${this.#options.host}`;
      throw new VmError('STORAGE_FULL', text, { vmId: copyId }, { cause });
    }
  }

  async pathOf(template: OfTemplate, copyId: string): Promise<string> {
    const found = await this.#volumes.find(this.#name(template, copyId));
    if (found) return found.path;
    throw new Error('the copy of the saved memory is gone');
  }

  async drop(template: OfTemplate, copyId: string): Promise<void> {
    await this.#options.require();
    await this.#volumes.remove(this.#name(template, copyId));
  }

  async copies(template: OfTemplate): Promise<string[]> {
    const begin = this.#name(template, '');
    return (await this.#volumes.list(begin)).map((name) => name.slice(begin.length));
  }

  #name({ id }: OfTemplate, copyId?: string): string {
    const own = this.#options.prefixOf(id);
    return copyId === undefined ? `${own}memory` : `${own}copy-${copyId}`;
  }
}
