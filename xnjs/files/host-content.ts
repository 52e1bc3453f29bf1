import { randomUUID } from 'node:crypto';
import { constants } from 'node:fs';
import { open, rename, unlink, type FileHandle } from 'node:fs/promises';
import type { Readable } from 'node:stream';
import { GridError } from '#kernel/errors.js';
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

export async function* chunksOf(
  file: FileHandle,
  { offset = 0, length = Number.MAX_SAFE_INTEGER }: FileRange,
): AsyncGenerator<Buffer, void, void> {
  for (let at = 0; at < length;) {
    const buffer = Buffer.allocUnsafe(Math.min(chunkBytes, length - at));
    const { bytesRead } = await file.read(buffer, 0, buffer.length, offset + at);
    if (bytesRead === 0) return;
    at += bytesRead;
    yield buffer.subarray(0, bytesRead);
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
    // not destroyed at a limit, so that whoever sends it can still be told
    const chunks = source.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>;
    for await (const chunk of chunks) {
      signal?.throwIfAborted();
      this.#options.quota?.take(chunk.length);
      taken.bytes += chunk.length;
      await file.writeFile(chunk);
    }
  }
}
