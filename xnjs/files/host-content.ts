import { randomUUID } from 'node:crypto';
import { constants } from 'node:fs';
import { open, rename, unlink, type FileHandle } from 'node:fs/promises';
import type { Readable } from 'node:stream';
import { GridError } from '#kernel/errors.js';
import { chunkMemory } from '#kernel/net/chunk-memory.js';
import { Chunks } from '#kernel/net/chunks.js';
import { within, type Place } from './beneath.js';
import type { FileRange } from './file-space.js';
import type { HostDirectory } from './host-directory.js';
import type { Quota } from './quota.js';

const { O_RDONLY, O_WRONLY, O_CREAT, O_EXCL, O_APPEND, O_NOFOLLOW, O_NONBLOCK } = constants;
const chunkBytes = 1024 * 1024;

/** @returns an opened regular file; a pipe would hold us up, a link would lead us away */
async function openRegular(place: Place, flags: number): Promise<FileHandle> {
  const handle = await open(place.path, flags | O_NOFOLLOW | O_NONBLOCK);
  if ((await handle.stat()).isFile()) return handle;
  await handle.close();
  throw new GridError('BAD_REQUEST', `"${place.name}" is not a regular file`);
}

export function openToRead(place: Place): Promise<FileHandle> {
  return openRegular(place, O_RDONLY);
}

/**
 * The next piece is read while one is being used.
 * @param lends each piece is left alone until the next is asked for, no longer
 */
export async function* chunksOf(
  file: FileHandle,
  { offset = 0, length = Number.MAX_SAFE_INTEGER }: FileRange,
  lends = false,
): AsyncGenerator<Buffer, void, undefined> {
  const lent = lends ? [chunkMemory.take(chunkBytes), chunkMemory.take(chunkBytes)] : [];
  const read = async (at: number, turn: number): Promise<Buffer> => {
    const wanted = Math.min(chunkBytes, length - at);
    const buffer = lent[turn % 2] ?? Buffer.allocUnsafe(wanted);
    const { bytesRead } = await file.read(buffer, 0, wanted, offset + at);
    return buffer.subarray(0, bytesRead);
  };
  const begin = (at: number, turn: number): Promise<Buffer> => {
    const piece = read(at, turn);
    piece.catch(() => undefined); // the reader may have left before it is due
    return piece;
  };
  let coming = begin(0, 0);
  try {
    for (let [at, turn] = [0, 1]; ; turn += 1) {
      const piece = await coming;
      if (piece.length === 0) return;
      at += piece.length;
      coming = begin(at, turn);
      yield piece;
    }
  } finally {
    await coming.catch(() => undefined);
    for (const memory of lent) chunkMemory.giveBack(memory);
  }
}

export type HostFileWriterOptions = {
  readonly host: HostDirectory;
  readonly umask: number;
  readonly quota: Quota | undefined;
};

/** Puts what a stream brings into files, within the quota. */
export class HostFileWriter {
  readonly #options: HostFileWriterOptions;

  constructor(options: HostFileWriterOptions) {
    this.#options = options;
  }

  async append(place: Place, source: Readable, signal?: AbortSignal): Promise<number> {
    await using file = await openRegular(place, O_WRONLY | O_APPEND);
    const taken = { bytes: 0 };
    await this.#pour(source, file, taken, signal); // what came before an error stays, and counts
    await file.sync();
    return taken.bytes;
  }

  /** The old file stays until the new one is there as a whole, on the disk. */
  async replace(place: Place, source: Readable, signal?: AbortSignal): Promise<number> {
    const { host, umask, quota } = this.#options;
    await using work = await host.work();
    const draft = within(work, randomUUID());
    const taken = { bytes: 0 };
    try {
      await using file = await open(draft, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600);
      await this.#pour(source, file, taken, signal);
      await file.chmod(0o666 & ~umask);
      await file.sync();
      await rename(draft, place.path);
    } catch (error) {
      await unlink(draft).catch(() => undefined);
      quota?.give(taken.bytes);
      throw error;
    }
    if (place.stat?.isFile()) quota?.give(place.stat.size);
    return taken.bytes;
  }

  async #pour(
    source: Readable,
    file: FileHandle,
    taken: { bytes: number },
    signal?: AbortSignal,
  ): Promise<void> {
    const chunks = new Chunks(source, chunkBytes, chunkMemory);
    try {
      for (let next = await chunks.next(); next; next = await chunks.next()) {
        const { bytes, memory } = next;
        signal?.throwIfAborted();
        this.#options.quota?.take(bytes.length);
        taken.bytes += bytes.length;
        await file.writeFile(bytes);
        if (memory.length === chunkBytes) chunkMemory.giveBack(memory);
      }
    } finally {
      chunks.leave(); // not destroyed at a limit: whoever sends it can still be told
    }
  }
}
