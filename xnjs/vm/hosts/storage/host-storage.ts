import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { open, stat } from 'node:fs/promises';
import type { PartName } from '#imagerepo/contract.js';
import type { Clock } from '#kernel/clock.js';
import { errorText, GridError } from '#kernel/errors.js';
import type { LibvirtClient } from '#kernel/libvirt/client.js';
import { PoolVolumes } from '#kernel/libvirt/pool-volumes.js';
import type { Log } from '#kernel/log.js';
import type { DomainPaths } from '../../domain-xml.js';
import type { SnapshotFiles } from '../../snapshots/snapshot-files.js';
import type { MachineSpec } from '../../target-system.js';
import type { MemoryFiles } from '../../tiers/memory-files.js';
import {
  CopiedImages,
  isNoSpace,
  type CopyProgress,
  type CopyStore,
  type ImageFile,
} from './copied-images.js';
import { MachineVolumes } from './machine-volumes.js';
import { PoolMemory } from './pool-memory.js';
import { PoolSnapshots } from './pool-snapshots.js';

export type HostStorageOptions = {
  readonly host: string;
  readonly client: LibvirtClient;
  /** Name of a storage pool of directories there, defined by its administrator. */
  readonly pool: string;
  /** What copies of images may take of it together. */
  readonly maxBytes: number;
  readonly installationId: string;
  readonly store: CopyStore;
  readonly clock: Clock;
  readonly log: Log;
};

/** What it learns of the engine, which is made after it. */
export type StorageUse = {
  /** Digests of what machines of that host are made of. */
  readonly inUse: () => ReadonlySet<string>;
  /** @throws when this server may not act any more */
  readonly require: () => Promise<void>;
};

/** Files of this server that a machine is made of. */
export type MachineFiles = {
  /** By the part of the image. */
  readonly parts: Partial<Record<PartName, ImageFile>>;
  readonly agentDisk?: ImageFile | undefined;
};

/** For operators. */
export type StorageStatus = {
  readonly pool: string;
  readonly images: number;
  readonly usedMiB: number;
  readonly maxMiB: number;
  /** Why it cannot be used; absent: it can, as far as is known. */
  readonly problem?: string;
};

/**
 * The storage pool of a host that does not share this server's files: images are copied there, and the disks of
 * its machines are made there, by libvirt's own calls. All volumes of ours have names that say so; no others are
 * looked at.
 */
export class HostStorage implements Disposable {
  readonly snapshots: SnapshotFiles;
  /** Saved memory, for machines of this host. */
  readonly memory: MemoryFiles;
  readonly #options: HostStorageOptions;
  readonly #volumes: PoolVolumes;
  readonly #own: MachineVolumes;
  readonly #prefix: string;
  readonly #images: CopiedImages;
  readonly #stopping = new AbortController();
  #use: StorageUse = { inUse: () => new Set(), require: () => Promise.resolve() };
  #problem: string | undefined = 'it has not answered yet';
  #opening: Promise<void> | undefined;

  constructor(options: HostStorageOptions) {
    this.#options = options;
    const { host, client, pool, maxBytes, installationId, store, clock, log } = options;
    this.#volumes = new PoolVolumes(client, pool);
    this.#prefix = `vsite-${installationId}`;
    const ofMachines = {
      ...{ host, volumes: this.#volumes, prefixOf: (id: string) => this.#ownPrefix(id) },
      require: () => this.#use.require(),
    };
    this.#own = new MachineVolumes(ofMachines);
    this.snapshots = new PoolSnapshots(ofMachines);
    this.memory = new PoolMemory({ ...ofMachines, stopping: this.#stopping.signal });
    this.#images = new CopiedImages({
      ...{ host, volumes: this.#volumes, prefix: this.#prefix, maxBytes, store, clock, log },
      inUse: () => this.#use.inUse(),
      require: () => this.#use.require(),
      stopping: this.#stopping.signal,
    });
  }

  [Symbol.dispose](): void {
    this.#stopping.abort(
      new GridError('HYPERVISOR_UNAVAILABLE', 'the server stops: the copy goes on later'),
    );
  }

  /** Learns what was copied before. */
  async load(): Promise<void> {
    await this.#images.load();
  }

  /** From now on it may remove what is not in use. */
  follow(use: StorageUse): void {
    this.#use = use;
  }

  /** Has a look at the pool. Never fails: what is wrong is told by {@link status}. */
  async check(): Promise<void> {
    const { host, pool, log } = this.#options;
    this.#opening ??= this.#volumes.open().finally(() => (this.#opening = undefined));
    try {
      await this.#opening;
      this.#problem = undefined;
    } catch (error) {
      const problem = errorText(error);
      if (problem !== this.#problem)
        log.warn({ host, pool, err: problem }, 'the storage pool of a host cannot be used');
      this.#problem = problem;
    }
  }

  /** Has another look at a pool that could not be used. Never fails. */
  async recheck(): Promise<void> {
    if (this.#problem !== undefined) await this.check();
  }

  get status(): StorageStatus {
    const { pool, maxBytes } = this.#options;
    return {
      ...{ pool, images: this.#images.count },
      usedMiB: Math.ceil(this.#images.usedBytes / 1024 ** 2),
      maxMiB: Math.floor(maxBytes / 1024 ** 2),
      ...(this.#problem !== undefined && { problem: this.#problem }),
    };
  }

  /** Whether all of it was copied there before. */
  hasImage(image: Partial<Pick<MachineSpec['image'], 'parts'>>): boolean {
    const parts = Object.values(image.parts ?? {});
    return parts.length > 0 && parts.every((part) => this.#images.has(part.sha256));
  }

  /** Those of the files that have no copy there. They count as used now. */
  async missing({ parts, agentDisk }: MachineFiles): Promise<ImageFile[]> {
    const files = [...Object.values(parts), ...(agentDisk ? [agentDisk] : [])];
    const missing: ImageFile[] = [];
    for (const file of files) if (!(await this.#images.find(file))) missing.push(file);
    return missing;
  }

  /** @throws what {@link CopiedImages.copy} does */
  async copy(files: readonly ImageFile[]): Promise<void> {
    await Promise.all(files.map((file) => this.#images.copy(file)));
  }

  /** Of those that are on their way. */
  progress(files: readonly ImageFile[]): CopyProgress & { readonly totalBytes: number } {
    const all = files.map((file) => ({
      ...(this.#images.progress(file.sha256) ?? { doneBytes: file.sizeBytes, isChecked: true }),
      sizeBytes: file.sizeBytes,
    }));
    return {
      doneBytes: all.reduce((sum, { doneBytes }) => sum + doneBytes, 0),
      totalBytes: all.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0),
      isChecked: all.every(({ isChecked }) => isChecked),
    };
  }

  /**
   * Makes the machine's own volumes upon copies that are there. May be repeated.
   * @param seed a small disk of this server that is for this machine only
   * @throws `STORAGE_FULL`, `HYPERVISOR_UNAVAILABLE`; `HYPERVISOR_FAILED` a copy has gone meanwhile
   */
  async prepare(machine: MachineSpec, files: MachineFiles, seed?: string): Promise<DomainPaths> {
    try {
      const { kernel, initrd, disk } = files.parts;
      const agentDisk = files.agentDisk && (await this.#pathOf(files.agentDisk));
      const own = this.#ownPrefix(machine.id);
      const console = await this.#own.ensure(`${own}console`);
      return {
        console,
        ...(kernel && { kernel: await this.#pathOf(kernel) }),
        ...(initrd && { initrd: await this.#pathOf(initrd) }),
        ...(disk && { disk: await this.#overlay(machine, disk) }),
        ...(seed !== undefined && { seed: await this.#seed(`${own}seed`, seed) }),
        ...(agentDisk !== undefined && { agentDisk }),
        ...(machine.image.metadata.display && { screenSocket: 'libvirt' as const }),
      };
    } catch (error) {
      if (!isNoSpace(error)) throw error;
      const { host } = this.#options;
      const text = `no space left for the files of the target system on host ${host}`;
      throw new GridError('STORAGE_FULL', text, { vmId: machine.id }, { cause: error });
    }
  }

  /** All volumes of a machine. One that has none is fine. */
  async remove(id: string): Promise<void> {
    for (const name of await this.#volumes.list(this.#ownPrefix(id)))
      await this.#volumes.remove(name);
  }

  /** The end of what the guest wrote to its console; nothing where that cannot be read. */
  async consoleTail(id: string, bytes: number): Promise<Buffer> {
    try {
      const name = `${this.#ownPrefix(id)}console`;
      const { sizeBytes = 0 } = (await this.#volumes.find(name)) ?? {};
      if (sizeBytes === 0) return Buffer.alloc(0);
      const signal = AbortSignal.any([this.#stopping.signal, AbortSignal.timeout(5_000)]);
      const chunks: Buffer[] = [];
      let size = 0;
      for await (const chunk of this.#volumes.download(name, Math.max(0, sizeBytes - bytes), {
        signal,
      })) {
        chunks.push(chunk);
        size += chunk.length;
        if (size > 4 * bytes) break; // it writes faster than we read
      }
      return Buffer.concat(chunks).subarray(-bytes);
    } catch {
      return Buffer.alloc(0);
    }
  }

  /**
   * Removes volumes of ours that belong to nobody, if the pool can be used.
   * @param isGone whether the target system was removed and has no domain
   * @param areKnown whether all domains there are of target systems that are known
   */
  async sweep(isGone: (id: string) => Promise<boolean>, areKnown: boolean): Promise<void> {
    if (this.#problem !== undefined) return;
    const begin = `${this.#prefix}-vm-`;
    const { host, log } = this.#options;
    const ids = (await this.#volumes.list(begin)).map((name) =>
      name.slice(begin.length).slice(0, 36),
    );
    for (const id of new Set(ids)) {
      if (!(await isGone(id))) continue;
      await this.#use.require();
      log.warn({ host, vmId: id }, 'volumes of a target system that was removed are removed');
      await this.remove(id);
    }
    if (areKnown) await this.#images.sweep();
  }

  async #overlay(machine: MachineSpec, disk: ImageFile): Promise<string> {
    const name = `${this.#ownPrefix(machine.id)}overlay`;
    const found = await this.#volumes.find(name);
    if (found) return found.path;
    const { virtualBytes } = machine.image.parts.disk ?? {};
    const { diskMiB } = machine.parameters;
    // else what is counted as its disk says nothing of what the machine sees
    const isKnown = virtualBytes !== undefined && diskMiB !== undefined;
    const sizeBytes = isKnown ? diskMiB * 1024 ** 2 : await virtualBytesOf(disk.path);
    const backingPath = await this.#pathOf(disk);
    return (await this.#volumes.create({ name, sizeBytes, format: 'qcow2', backingPath })).path;
  }

  /** Written whenever it differs: a machine that has lost what it got is told something else. */
  async #seed(name: string, path: string): Promise<string> {
    const digest = (await digestOf(path)).slice(0, 16);
    const full = `${name}-${digest}`;
    const { size } = await stat(path);
    const found = await this.#volumes.find(full);
    if (found?.sizeBytes === size) return found.path;
    if (found) await this.#volumes.remove(full);
    const made = await this.#volumes.create({ name: full, sizeBytes: 0, format: 'raw' });
    const { signal } = this.#stopping;
    await this.#volumes.upload(full, () => createReadStream(path), 0, { signal });
    return made.path;
  }

  async #pathOf(file: ImageFile): Promise<string> {
    const path = await this.#images.find(file);
    if (path !== undefined) return path;
    const text = `a copy of its image on host ${this.#options.host} was removed meanwhile`;
    throw new GridError('HYPERVISOR_UNAVAILABLE', text);
  }

  #ownPrefix(id: string): string {
    return `${this.#prefix}-vm-${id}-`;
  }
}

/** @throws `IMAGE_INVALID` it is no qcow2 file */
async function virtualBytesOf(path: string): Promise<number> {
  await using file = await open(path);
  const { buffer } = await file.read(Buffer.alloc(32), 0);
  if (buffer.toString('latin1', 0, 4) === 'QFI\xfb') return Number(buffer.readBigUInt64BE(24));
  throw new GridError('IMAGE_INVALID', 'the disk of the image is no qcow2 file');
}

export async function digestOf(path: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path) as AsyncIterable<Buffer>) hash.update(chunk);
  return hash.digest('hex');
}
