import { createHash, randomUUID } from 'node:crypto';
import { createReadStream } from 'node:fs';
import {
  chmod,
  mkdir,
  open,
  readdir,
  rename,
  rm,
  stat,
  writeFile,
  type FileHandle,
} from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { Readable } from 'node:stream';
import { ConfigError } from '#kernel/config.js';
import { errorText } from '#kernel/errors.js';
import type { ByteRange } from '#kernel/http/range.js';
import { blobPath } from '../contract.js';
import { ImageError } from '../errors.js';
import type { Content } from './content.js';

/** What the sender says about a content, and how large it may be. */
export type Expected = {
  readonly maxBytes: number;
  readonly sha256?: string | undefined;
};
/** A whole content on the disk that nobody refers to yet. */
export type Incoming = {
  readonly path: string;
  readonly sha256: string;
  readonly sizeBytes: number;
};

/**
 * Contents by their SHA-256: equal contents are one file, and a file never changes. New ones are written
 * aside and renamed, so that whatever lies below `blobs/` is whole.
 */
export class BlobStore {
  readonly #directory: string;
  /** This process' name in `incoming/`. */
  readonly #session = randomUUID();

  private constructor(directory: string) {
    this.#directory = directory;
  }

  /** @throws {@link ConfigError} `CONFIG_INVALID` when the directory cannot be used */
  static async open(directory: string): Promise<BlobStore> {
    const store = new BlobStore(directory);
    try {
      await mkdir(store.#incoming, { recursive: true, mode: 0o700 });
      await mkdir(store.#blobs, { recursive: true, mode: 0o700 });
    } catch (cause) {
      throw new ConfigError('CONFIG_INVALID', `image store: ${errorText(cause)}`, {}, { cause });
    }
    return store;
  }

  get #incoming(): string {
    return join(this.#directory, 'incoming', this.#session);
  }

  get #blobs(): string {
    return join(this.#directory, 'blobs');
  }

  /** Removes unfinished uploads of earlier processes, which must be gone: one owns a directory. */
  async removeLeftovers(): Promise<void> {
    const incoming = join(this.#directory, 'incoming');
    for (const name of await readdir(incoming))
      if (name !== this.#session) await rm(join(incoming, name), { recursive: true });
  }

  /**
   * Writes a stream to the disk, durably. Whatever goes wrong, nothing of it stays.
   * @throws {@link ImageError} `TOO_LARGE`, `STORAGE_FULL`, `IMAGE_INVALID` if it is not what was announced
   */
  async receive(source: Readable, { maxBytes, sha256 }: Expected): Promise<Incoming> {
    const path = join(this.#incoming, randomUUID());
    try {
      await using file = await open(path, 'wx', 0o600);
      const content = await write(source, file, maxBytes);
      if (sha256 !== undefined && sha256 !== content.sha256)
        throw new ImageError('IMAGE_INVALID', `the content has the digest ${content.sha256}`);
      await file.sync();
      return { path, ...content };
    } catch (error) {
      await rm(path, { force: true });
      throw isFull(error) ? storageFull(error) : error;
    }
  }

  /** Makes it a blob; equal content that is there already is kept instead. */
  async keep({ path, sha256 }: Incoming): Promise<void> {
    const target = this.#blob(sha256);
    if (await this.has(sha256)) {
      await rm(path);
      return;
    }
    try {
      if (await mkdir(dirname(target), { recursive: true, mode: 0o700 }))
        await syncDirectory(this.#blobs);
      await chmod(path, 0o444);
      await rename(path, target);
      await syncDirectory(dirname(target));
    } catch (error) {
      throw isFull(error) ? storageFull(error) : error;
    }
  }

  async discard({ path }: Incoming): Promise<void> {
    await rm(path, { force: true });
  }

  async has(sha256: string): Promise<boolean> {
    return stat(this.#blob(sha256)).then(
      () => true,
      () => false,
    );
  }

  /** The caller destroys the stream if it does not read to the end. */
  read(sha256: string, range?: ByteRange): Readable {
    const part = range && { start: range.offset, end: range.offset + range.length - 1 };
    return createReadStream(this.#blob(sha256), { highWaterMark: 256 * 1024, ...part });
  }

  /** Lends the content to a check. */
  async inspect<T>(sha256: string, check: (content: Content) => Promise<T>): Promise<T> {
    await using file = await open(this.#blob(sha256));
    const { size: sizeBytes } = await file.stat();
    return await check({
      sizeBytes,
      read: async (offset, length) => {
        const { buffer, bytesRead } = await file.read(Buffer.alloc(length), 0, length, offset);
        return buffer.subarray(0, bytesRead);
      },
    });
  }

  async remove(sha256: string): Promise<void> {
    await rm(this.#blob(sha256), { force: true });
  }

  /** The digests of all blobs. */
  async *list(): AsyncGenerator<string> {
    for (const prefix of await readdir(this.#blobs))
      yield* await readdir(join(this.#blobs, prefix));
  }

  #blob(sha256: string): string {
    return join(this.#directory, blobPath(sha256));
  }
}

async function write(source: Readable, file: FileHandle, maxBytes: number) {
  const hash = createHash('sha256');
  let sizeBytes = 0;
  async function* measured(): AsyncGenerator<Buffer> {
    // not destroyed at a refusal, so that the answer can still be sent
    for await (const chunk of source.iterator({
      destroyOnReturn: false,
    }) as AsyncIterable<Buffer>) {
      sizeBytes += chunk.length;
      if (sizeBytes > maxBytes) throw new ImageError('TOO_LARGE', `larger than ${maxBytes} bytes`);
      hash.update(chunk);
      yield chunk;
    }
  }
  await writeFile(file, measured());
  return { sha256: hash.digest('hex'), sizeBytes };
}

async function syncDirectory(path: string): Promise<void> {
  await using directory = await open(path);
  await directory.sync();
}

function isFull(error: unknown): boolean {
  const { code } = error as NodeJS.ErrnoException;
  return code === 'ENOSPC' || code === 'EDQUOT';
}

function storageFull(cause: unknown): ImageError {
  return new ImageError('STORAGE_FULL', 'no space left for images', {}, { cause });
}
