import { constants, type Stats } from 'node:fs';
import { chmod, mkdir, open, rename, statfs, type FileHandle } from 'node:fs/promises';
import type { Readable } from 'node:stream';
import { GridError } from '#kernel/errors.js';
import { LendingStream } from '#kernel/net/lending-stream.js';
import type { CallOptions, Space } from '../tsi/tsi.js';
import {
  findBeneath,
  O_PATH,
  openDirectory,
  readable,
  type FindOptions,
  type Place,
} from './beneath.js';
import {
  belowRoot,
  describedFile,
  fileNamed,
  isHidden,
  maxListed,
  parsePermissions,
  parseUmask,
  refuseIntoItself,
  scanLimits,
  type FileInfo,
  type FileListing,
  type FileRange,
  type FileSpace,
  type ListingPage,
  type Scan,
} from './file-space.js';
import { chunksOf, HostFileWriter, openToRead } from './host-content.js';
import type { HostDirectory } from './host-directory.js';
import { childOf, describe, namesIn, statsIn } from './host-entries.js';
import { normalisePath } from './path.js';
import type { Quota } from './quota.js';

const { O_NOFOLLOW } = constants;
const maxCopied = 100_000;

export type HostFileSpaceOptions = {
  readonly host: HostDirectory;
  /** Name of the directory in it that is our root. */
  readonly directory: string;
  readonly umask?: string;
  readonly quota?: Quota | undefined;
};

/**
 * {@link FileSpace} in a directory of this host, needing no target system. Every file is ours as the
 * operating system sees it, so nothing but the root keeps users apart: see `findBeneath`.
 */
export class HostFileSpace implements FileSpace {
  readonly #options: HostFileSpaceOptions;
  readonly #umask: number;
  readonly #writer: HostFileWriter;

  constructor(options: HostFileSpaceOptions) {
    this.#options = options;
    this.#umask = parseUmask(options.umask ?? '077');
    const { host, quota } = options;
    this.#writer = new HostFileWriter({ host, umask: this.#umask, quota });
  }

  get umask(): string {
    return this.#umask.toString(8);
  }

  withUmask(umask: string): FileSpace {
    return new HostFileSpace({ ...this.#options, umask });
  }

  /** Where it lies on the server is no user's business. */
  mountPoint(): Promise<string> {
    return Promise.resolve('/');
  }

  async stat(path: string): Promise<FileInfo> {
    await using place = await this.#find(path);
    return describe(normalisePath(path), present(place, path));
  }

  async list(
    path: string,
    { offset = 0, num = maxListed }: ListingPage = {},
  ): Promise<FileListing> {
    const top = normalisePath(path);
    await using directory = await this.#openDirectory(top);
    const names = (await namesIn(directory)).filter((name) => !isHidden(name)).sort();
    const entries: FileInfo[] = [];
    const page = names.slice(offset, offset + Math.min(num, maxListed));
    for await (const { name, stat } of statsIn(directory, page)) {
      const child = childOf(top, name);
      const entry = stat.isSymbolicLink() ? await this.#followed(child) : describe(child, stat);
      if (entry) entries.push(entry);
    }
    return { entries, total: names.length };
  }

  read(path: string, range: FileRange = {}, { signal }: CallOptions = {}): Readable {
    const stream = new LendingStream((lends) => this.#chunks(path, range, lends));
    signal?.addEventListener('abort', () => stream.destroy(), { once: true });
    return stream;
  }

  async write(
    path: string,
    source: Readable,
    { append = false, signal }: { append?: boolean } & CallOptions = {},
  ): Promise<number> {
    const file = fileNamed(path);
    const { quota } = this.#options;
    await quota?.left();
    await using place = await this.#find(file, {
      missing: 'make',
      makeDirectory: (above) => this.#makeDirectory(above),
    });
    if (place.stat?.isDirectory() || place.name === '.')
      throw new GridError('BAD_REQUEST', `"${file}" is a directory`, { path });
    const way = append && place.stat ? 'append' : 'replace';
    return await this.#writer[way](place, source, signal).catch((error: unknown) => {
      throw readable(error, file);
    });
  }

  async mkdir(path: string): Promise<void> {
    const directory = normalisePath(path);
    const makeDirectory = (above: string): Promise<void> => this.#makeDirectory(above);
    await using place = await this.#find(directory, { missing: 'make', makeDirectory });
    if (!place.stat) await makeDirectory(place.path);
    else if (!place.stat.isDirectory())
      throw new GridError('BAD_REQUEST', `"${directory}" is a file`, { path });
  }

  async remove(path: string): Promise<void> {
    const { host, quota } = this.#options;
    try {
      await using place = await this.#find(belowRoot(path), { keepLast: true, missing: 'last' });
      if (place.stat) await host.remove(place.path, (bytes) => quota?.give(bytes));
    } catch (error) {
      if (!(error instanceof GridError && error.code === 'NOT_FOUND')) throw error;
    }
  }

  async destroy(): Promise<void> {
    await this.#options.host.removeRoot(this.#options.directory);
  }

  async rename(from: string, to: string): Promise<void> {
    const { quota } = this.#options;
    const [source, target] = [belowRoot(from), belowRoot(to)];
    refuseIntoItself(source, target);
    await using old = await this.#find(source, { keepLast: true });
    await using place = await this.#find(target, { keepLast: true, missing: 'last' });
    await rename(old.path, place.path).catch((error: unknown) => {
      throw readable(error, target);
    });
    if (place.stat?.isFile()) quota?.give(place.stat.size);
  }

  async copy(from: string, to: string): Promise<void> {
    const [source, target] = [belowRoot(from), belowRoot(to)];
    refuseIntoItself(source, target);
    const { isDirectory } = await this.stat(source);
    if (!isDirectory) {
      await this.#copyFile(source, target);
      return;
    }
    for (const { path, isFile } of await this.#tree(source)) {
      const copy = target + path.slice(source.length);
      if (isFile) await this.#copyFile(path, copy);
      else await this.mkdir(copy);
    }
  }

  async chmod(path: string, permissions: string): Promise<void> {
    const groups = parsePermissions(permissions);
    await using place = await this.#find(path);
    let mode = present(place, path).mode & 0o777;
    for (const [at, bits] of groups.entries()) {
      const shift = 6 - 3 * at;
      mode = (mode & ~(7 << shift)) | (bits << shift);
    }
    await using handle = await open(place.path, O_PATH | O_NOFOLLOW);
    if ((await handle.stat()).isSymbolicLink()) throw leadsAway(path);
    await chmod(`/proc/self/fd/${handle.fd}`, mode);
  }

  chgrp(): Promise<void> {
    return refuse('files here belong to no group of yours');
  }

  acl(): Promise<undefined> {
    return Promise.resolve(undefined);
  }

  setAcl(): Promise<void> {
    return refuse('access control lists are not supported here');
  }

  async space(): Promise<Space> {
    const { host, quota } = this.#options;
    const { bsize, blocks, bavail } = await statfs(host.base);
    const free = bsize * bavail;
    const left = quota ? Math.min(free, await quota.left()) : free;
    return { totalBytes: bsize * blocks, freeBytes: free, userBytes: left };
  }

  async scan({ signal }: CallOptions = {}): Promise<Scan> {
    const files: string[] = [];
    const metadata = new Map<string, string>();
    let [names, bytes] = [0, 0];
    for await (const { path, stat } of this.#walk('/')) {
      signal?.throwIfAborted();
      if (!stat.isFile()) continue;
      const described = describedFile(path);
      if (described === undefined) {
        names += Buffer.byteLength(path) + 1;
        files.push(path);
      } else if (stat.size <= scanLimits.fileBytes) {
        bytes += stat.size;
        metadata.set(described, await this.#text(path));
      }
      if (names > scanLimits.bytes || bytes > scanLimits.bytes)
        return { files, metadata, complete: false };
    }
    return { files, metadata, complete: true };
  }

  /** Bytes of all files, for the quota. */
  async measure(): Promise<number> {
    let bytes = 0;
    for await (const { stat } of this.#walk('/')) if (stat.isFile()) bytes += stat.size;
    return bytes;
  }

  async #find(path: string, options?: FindOptions): Promise<Place> {
    const { host, directory } = this.#options;
    return await findBeneath(() => host.root(directory), normalisePath(path), options);
  }

  async #makeDirectory(path: string): Promise<void> {
    await mkdir(path, { mode: 0o700 });
    await using handle = await open(path, O_PATH | O_NOFOLLOW);
    await chmod(`/proc/self/fd/${handle.fd}`, 0o777 & ~this.#umask); // whatever our own umask is
  }

  async #openDirectory(path: string): Promise<FileHandle> {
    await using place = await this.#find(path);
    if (!present(place, path).isDirectory())
      throw new GridError('BAD_REQUEST', `"${path}" is not a directory`, { path });
    return await openDirectory(place.path).catch((error: unknown) => {
      throw readable(error, path);
    });
  }

  /** A link that leads nowhere, or out, is left out of listings. */
  async #followed(path: string): Promise<FileInfo | undefined> {
    try {
      return await this.stat(path);
    } catch (error) {
      if (error instanceof GridError) return undefined;
      throw error;
    }
  }

  /** Everything below a directory, directories before what is in them; links are not followed. */
  async *#walk(top: string): AsyncGenerator<{ path: string; stat: Stats }, void, void> {
    const pending = [top];
    for (let path = pending.pop(); path !== undefined; path = pending.pop()) {
      await using directory = await this.#openDirectory(path);
      for await (const { name, stat } of statsIn(directory, await namesIn(directory))) {
        const child = childOf(path, name);
        yield { path: child, stat };
        if (stat.isDirectory()) pending.push(child);
      }
    }
  }

  async #copyFile(from: string, to: string): Promise<void> {
    const source = this.read(from);
    try {
      await this.write(to, source);
    } finally {
      source.destroy();
    }
  }

  /** As it is before the first copy: the target may be in it, by way of a link. */
  async #tree(top: string): Promise<{ path: string; isFile: boolean }[]> {
    const tree = [{ path: top, isFile: false }];
    for await (const { path, stat } of this.#walk(top)) {
      if (stat.isFile() || stat.isDirectory()) tree.push({ path, isFile: stat.isFile() });
      if (tree.length > maxCopied)
        throw new GridError('TOO_LARGE', `more than ${maxCopied} files are not copied at once`);
    }
    return tree;
  }

  async *#chunks(
    path: string,
    range: FileRange,
    lends = false,
  ): AsyncGenerator<Buffer, void, undefined> {
    await using place = await this.#find(fileNamed(path));
    await using file = await openToRead(place).catch((error: unknown) => {
      throw readable(error, path);
    });
    yield* chunksOf(file, range, lends);
  }

  async #text(path: string): Promise<string> {
    const chunks: Buffer[] = [];
    for await (const chunk of this.#chunks(path, { length: scanLimits.fileBytes }))
      chunks.push(chunk);
    return Buffer.concat(chunks).toString();
  }
}

function present({ stat }: Place, path: string): Stats {
  if (stat) return stat;
  throw new GridError('NOT_FOUND', `there is no file "${path}"`, { path });
}

function leadsAway(path: string): GridError {
  return new GridError('BAD_REQUEST', `"${path}" became a link meanwhile`, { path });
}

function refuse(text: string): Promise<never> {
  return Promise.reject(new GridError('NOT_IMPLEMENTED', text));
}
