import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import pLimit from 'p-limit';
import type { Clock } from '#kernel/clock.js';
import { errorText, GridError } from '#kernel/errors.js';
import type { PoolVolumes, PoolVolume } from '#kernel/libvirt/pool-volumes.js';
import type { Log } from '#kernel/log.js';
import { createSerial } from '#kernel/persistence/serial.js';
import { isPassing } from '../../passing.js';

/** A part of an image, as a file of this server that nobody writes to. */
export type ImageFile = {
  readonly sha256: string;
  readonly sizeBytes: number;
  readonly path: string;
};

/** The durable record of a copy on a host, by the digest of what it is. */
export type Copy = {
  readonly sizeBytes: number;
  /** ms since the epoch; when a machine was last made with it. */
  readonly usedMs: number;
  /** It was read back and is right, as long as its file was not written to later; absent: not yet. */
  readonly changed?: string | undefined;
};
export type Copies = Readonly<Record<string, Copy>>;

export type CopyStore = { get(): Promise<Copies>; set(copies: Copies): Promise<void> };

export type CopiedImagesOptions = {
  readonly host: string;
  readonly volumes: PoolVolumes;
  /** Of the names of all volumes of this installation. */
  readonly prefix: string;
  /** All copies together are no larger. */
  readonly maxBytes: number;
  readonly store: CopyStore;
  /** Digests of what machines of that host are made of. */
  readonly inUse: () => ReadonlySet<string>;
  /** @throws when this server may not act any more */
  readonly require: () => Promise<void>;
  readonly clock: Clock;
  readonly log: Log;
  readonly stopping: AbortSignal;
};

/** Of one image that is on its way. */
export type CopyProgress = { readonly doneBytes: number; readonly isChecked: boolean };

type Running = { readonly done: Promise<string>; progress: CopyProgress };

/** At the same time to one host. */
const copiesAtOnce = 2;
/** Stays free in the pool: overlays and consoles of machines grow. */
const marginBytes = 64 * 1024 ** 2;

/**
 * Copies of images on a host that does not share our files: one of each digest, whoever wants it. What is stored
 * first is that there may be one; it counts as such after it was read back. What is not in use goes, the longest
 * unused first, when there is no room for another one.
 */
export class CopiedImages {
  readonly #options: CopiedImagesOptions;
  readonly #running = new Map<string, Running>();
  readonly #turns = pLimit(copiesAtOnce);
  readonly #serial = createSerial();
  /** Those that are being made and that no machine can be upon: short of their length, or read back and wrong. */
  readonly #unfit = new Set<string>();
  #copies: Copies = {};

  constructor(options: CopiedImagesOptions) {
    this.#options = options;
  }

  async load(): Promise<void> {
    this.#copies = await this.#options.store.get();
  }

  /** As far as is known without asking the host. */
  has(sha256: string): boolean {
    return this.#copies[sha256]?.changed !== undefined;
  }

  get usedBytes(): number {
    return sum(Object.values(this.#copies));
  }

  get count(): number {
    return Object.keys(this.#copies).filter((sha256) => this.has(sha256)).length;
  }

  progress(sha256: string): CopyProgress | undefined {
    return this.#running.get(sha256)?.progress;
  }

  /** Where the copy is; `undefined`: there is none, or none that is whole. It counts as used now. */
  async find({ sha256, sizeBytes }: Omit<ImageFile, 'path'>): Promise<string | undefined> {
    const copy = this.#copies[sha256];
    if (copy?.changed === undefined || this.#running.has(sha256)) return undefined;
    const volume = await this.#options.volumes.find(this.#nameOf(sha256));
    if (volume?.sizeBytes !== sizeBytes || volume.changed !== copy.changed) {
      const { host, log } = this.#options;
      log.warn({ host, sha256 }, 'a copy of an image has been changed on its host');
      await this.#set(sha256, { sizeBytes, usedMs: copy.usedMs });
      return undefined;
    }
    await this.#set(sha256, { ...copy, usedMs: this.#options.clock.now() });
    return volume.path;
  }

  /**
   * Makes the copy, or goes on with one that was begun; who asks for the same meanwhile gets the same.
   * @returns its path there
   * @throws `STORAGE_FULL` there is no room; `HYPERVISOR_UNAVAILABLE` the host is lost, and what has arrived stays;
   * `HYPERVISOR_FAILED` it arrives damaged
   */
  async copy(file: ImageFile): Promise<string> {
    const { sha256 } = file;
    const known = this.#running.get(sha256);
    if (known) return await known.done;
    const progress = { doneBytes: 0, isChecked: false };
    const done = this.#turns(() => this.#make(file)).finally(() => this.#running.delete(sha256));
    done.catch(() => undefined); // told to those who wait
    this.#running.set(sha256, { done, progress });
    return await done;
  }

  /** Removes copies that nothing is known of and nobody uses: the database has lost them. */
  async sweep(): Promise<void> {
    const { volumes, prefix, inUse, require, host, log } = this.#options;
    const begin = `${prefix}-image-`;
    for (const name of await volumes.list(begin)) {
      const sha256 = name.slice(begin.length);
      if (this.#copies[sha256] || this.#running.has(sha256) || inUse().has(sha256)) continue;
      await require();
      log.warn({ host, sha256 }, 'a copy of an image that nobody knows of is removed');
      await volumes.remove(name);
    }
  }

  async #make(file: ImageFile): Promise<string> {
    const { sha256 } = file;
    const { host, log } = this.#options;
    const beganMs = performance.now();
    try {
      await this.#serial('room', () => this.#admit(file));
      const volume = (await this.#attempt(file)) ?? (await this.#attempt(file));
      if (!volume)
        throw new GridError(
          'HYPERVISOR_FAILED',
          `the image arrives damaged on host ${host}: what is read back is something else`,
        );
      await this.#set(sha256, { ...this.#entry(file), changed: volume.changed });
      const ms = Math.round(performance.now() - beganMs);
      log.info({ host, sha256, bytes: file.sizeBytes, ms }, 'an image was copied to a host');
      return volume.path;
    } catch (error) {
      if (this.#unfit.has(sha256) && !isPassing(error) && !this.#options.stopping.aborted)
        await this.#giveUp(sha256);
      if (isNoSpace(error)) throw this.#full(file, errorText(error), error);
      throw isGone(error, file) ? this.#deleted(error) : error;
    } finally {
      this.#unfit.delete(sha256);
    }
  }

  /** Makes room, and stores that there may be a copy. */
  async #admit(file: ImageFile): Promise<void> {
    const { maxBytes, volumes, require } = this.#options;
    const own = this.#copies[file.sha256];
    await require();
    const rest = sum(Object.values(this.#copies)) - (own?.sizeBytes ?? 0);
    await this.#evict(rest + file.sizeBytes - maxBytes, (lacking) =>
      this.#full(file, `copies of images have ${mib(maxBytes)}, ${mib(lacking)} too little`),
    );
    const there = await volumes.find(this.#nameOf(file.sha256));
    const needed = Math.max(0, file.sizeBytes - (there?.sizeBytes ?? 0)) + marginBytes;
    await this.#evict(needed - (await volumes.availableBytes()), (lacking) =>
      this.#full(file, `its storage pool lacks ${mib(lacking)}`),
    );
    await this.#set(file.sha256, this.#entry(file));
  }

  /**
   * @throws `refuse` there is not so much that could go; nothing does then, unless it is wanted since the first went
   */
  async #evict(bytes: number, refuse: (lackingBytes: number) => GridError): Promise<void> {
    if (bytes <= 0) return;
    const idle = this.#idle();
    const lacking = bytes - sum(idle.map(([, copy]) => copy));
    if (lacking > 0) throw refuse(lacking);
    let freed = 0;
    for (const [sha256, { sizeBytes }] of idle) {
      if (freed >= bytes) return;
      await this.#options.require();
      // the one before took its time
      if (!this.#idle().some(([still]) => still === sha256)) continue;
      await this.#discard(sha256);
      freed += sizeBytes;
    }
    if (freed < bytes) throw refuse(bytes - freed);
  }

  /** What may go, the longest unused first. */
  #idle(): [string, Copy][] {
    const used = this.#options.inUse();
    return Object.entries(this.#copies)
      .filter(([sha256]) => !used.has(sha256) && !this.#running.has(sha256))
      .sort(([, a], [, b]) => a.usedMs - b.usedMs);
  }

  /** Brings all of it there and reads it back. @returns `undefined`: it is not what it should be, and is gone */
  async #attempt(file: ImageFile): Promise<PoolVolume | undefined> {
    const { volumes, require, host, log, stopping: signal } = this.#options;
    const { sha256, sizeBytes, path } = file;
    const name = this.#nameOf(sha256);
    let there = await volumes.find(name);
    if (there && there.sizeBytes > sizeBytes) {
      await volumes.remove(name);
      there = undefined;
    }
    await require();
    if (there?.sizeBytes !== sizeBytes) this.#unfit.add(sha256);
    there ??= await volumes.create({ name, sizeBytes: 0, format: 'raw' });
    const start = there.sizeBytes;
    let doneBytes = start;
    const show = (isChecked = false): void => this.#show(sha256, { doneBytes, isChecked });
    show();
    if (start < sizeBytes) {
      const open = () => createReadStream(path, { start, highWaterMark: 256 * 1024 });
      await volumes.upload(name, open, start, { signal }, (bytes) => {
        doneBytes += bytes;
        show();
      });
    }
    show(true);
    const isRight = await this.#isRight(file);
    const made = await volumes.find(name);
    if (isRight && made?.sizeBytes === sizeBytes) return made;
    this.#unfit.add(sha256);
    log.warn({ host, sha256, begunAt: start }, 'a copy of an image is damaged');
    await volumes.remove(name);
    return undefined;
  }

  async #isRight({ sha256 }: ImageFile): Promise<boolean> {
    const { volumes, stopping: signal } = this.#options;
    const hash = createHash('sha256');
    for await (const chunk of volumes.download(this.#nameOf(sha256), 0, { signal }))
      hash.update(chunk);
    return hash.digest('hex') === sha256;
  }

  #show(sha256: string, progress: CopyProgress): void {
    const running = this.#running.get(sha256);
    if (running) running.progress = progress;
  }

  /** Never fails: it is found again by its record. */
  async #giveUp(sha256: string): Promise<void> {
    const { host, log, require } = this.#options;
    try {
      await require();
      await this.#discard(sha256);
    } catch (error) {
      log.warn({ host, sha256, err: errorText(error) }, 'a copy of an image is still there');
    }
  }

  /** The record goes last: what is there is found by it. */
  async #discard(sha256: string): Promise<void> {
    const { volumes, host, log } = this.#options;
    await volumes.remove(this.#nameOf(sha256));
    await this.#set(sha256, undefined);
    log.info({ host, sha256 }, 'a copy of an image was removed from a host');
  }

  async #set(sha256: string, copy: Copy | undefined): Promise<void> {
    await this.#serial('store', async () => {
      const others = Object.fromEntries(
        Object.entries(this.#copies).filter(([key]) => key !== sha256),
      );
      const copies = copy ? { ...others, [sha256]: copy } : others;
      await this.#options.store.set(copies);
      this.#copies = copies;
    });
  }

  #entry({ sizeBytes }: ImageFile): Copy {
    return { sizeBytes, usedMs: this.#options.clock.now() };
  }

  #nameOf(sha256: string): string {
    return `${this.#options.prefix}-image-${sha256}`;
  }

  /** The text of the system's error tells a path. */
  #deleted(cause: unknown): GridError {
    const text = `its image was deleted before it was on host ${this.#options.host}`;
    return new GridError('IMAGE_UNKNOWN', text, {}, { cause });
  }

  #full({ sizeBytes }: ImageFile, why: string, cause?: unknown): GridError {
    const { host } = this.#options;
    const text = `no room for ${mib(sizeBytes)} of its image on host ${host}: ${why}`;
    return new GridError('STORAGE_FULL', text, { host }, { cause });
  }
}

function sum(copies: readonly Copy[]): number {
  return copies.reduce((total, { sizeBytes }) => total + sizeBytes, 0);
}

function mib(bytes: number): string {
  return `${Math.ceil(bytes / 1024 ** 2)} MiB`;
}

function isGone(error: unknown, { path }: ImageFile): boolean {
  if (!(error instanceof Error && 'code' in error && 'path' in error)) return false;
  return error.code === 'ENOENT' && error.path === path;
}

/** As libvirt tells it: it has no code of its own for that. */
export function isNoSpace(error: unknown): boolean {
  return error instanceof GridError && error.message.includes('No space left on device');
}
