import { Readable } from 'node:stream';
import { GridError } from '#kernel/errors.js';
import { quote } from '../incarnation/quote.js';
import type { CallOptions, FileEntry, Space, Tsi, TsiIdentity } from '../tsi/tsi.js';
import { normalisePath, parentOf } from './path.js';

export type FileSpaceOptions = {
  /** Absolute directory on the target system, or one below `$HOME` of the user there. */
  readonly root: string;
  readonly identity: TsiIdentity;
  /** Asked anew for each call: a target system is bound anew whenever its machine is. */
  readonly tsi: () => Tsi;
  /** Octal, for new files and directories. */
  readonly umask?: string;
};

/** A file as seen from the root: `path` begins with `/`, without a slash at the end. */
export type FileInfo = Omit<FileEntry, 'path'> & { readonly path: string };
export type FileListing = { readonly entries: readonly FileInfo[]; readonly total: number };

type FileRange = { readonly offset?: number; readonly length?: number };

const maxListed = 10_000;

/**
 * A directory tree of a target system, with a user's rights: a storage or a job's directory. Paths are
 * decoded by the caller, and may not lead out of the root.
 * @throws `NOT_FOUND`, `BAD_REQUEST` naming the path; `TSI_UNAVAILABLE`, `TSI_FAILED`, `TSI_PROTOCOL`
 */
export class FileSpace {
  readonly #options: FileSpaceOptions;
  readonly #umask: string;
  #resolvedRoot: Promise<string> | undefined;

  constructor(options: FileSpaceOptions) {
    this.#options = options;
    this.#umask = options.umask ?? '077';
  }

  /** The absolute root, with a slash at the end. */
  async mountPoint(): Promise<string> {
    return `${await this.#root()}/`;
  }

  /** Octal, without leading zeros. */
  get umask(): string {
    return Number.parseInt(this.#umask, 8).toString(8);
  }

  async stat(path: string): Promise<FileInfo> {
    const [entry] = await this.#list(normalisePath(path), 'A');
    if (entry) return { ...entry, path: normalisePath(path) };
    throw new GridError('NOT_FOUND', `there is no file "${normalisePath(path)}"`, { path });
  }

  /** A page of the children, by name. */
  async list(
    path: string,
    { offset = 0, num = maxListed }: { offset?: number; num?: number } = {},
  ): Promise<FileListing> {
    const directory = await this.#directory(path);
    const entries = (await this.#list(directory, 'N')).sort((a, b) => (a.path < b.path ? -1 : 1));
    const page = entries.slice(offset, offset + Math.min(num, maxListed));
    return { entries: page, total: entries.length };
  }

  /** Streams a file, or a range of it. Whether it exists, `stat` says. */
  read(path: string, range: FileRange = {}, options: CallOptions = {}): Readable {
    return Readable.from(this.#chunks(normalisePath(path), range, options), { objectMode: false });
  }

  /** Replaces a file, or appends to it; missing parents are made. @returns bytes written */
  async write(
    path: string,
    source: Readable,
    { append = false, ...options }: { append?: boolean } & CallOptions = {},
  ): Promise<number> {
    const file = normalisePath(path);
    if (file === '/' || path.endsWith('/'))
      throw new GridError('BAD_REQUEST', `"${path}" names a directory, not a file`, { path });
    const { identity, tsi } = this.#options;
    const found = await this.#list(file, 'A');
    if (found[0]?.isDirectory)
      throw new GridError('BAD_REQUEST', `"${file}" is a directory`, { path });
    if (!found[0]) await this.mkdir(parentOf(file));
    const mode = 0o666 & ~Number.parseInt(this.#umask, 8);
    const absolute = await this.#absolute(file);
    return await tsi().write(identity, absolute, source, { mode, append }, options);
  }

  /** With parents; one that exists is fine. */
  async mkdir(path: string): Promise<void> {
    const directory = normalisePath(path);
    const [found] = await this.#list(directory, 'A');
    if (found?.isDirectory) return;
    if (found) throw new GridError('BAD_REQUEST', `"${directory}" is a file`, { path });
    await this.#run(`mkdir -p -- ${await this.#quoted(directory)}`);
  }

  /** Directories with all that is in them; what is not there is fine. The root stays. */
  async remove(path: string): Promise<void> {
    const file = normalisePath(path);
    if (file === '/') throw new GridError('BAD_REQUEST', 'the root of a storage stays', { path });
    await this.#run(removal(await this.#absolute(file)));
  }

  async rename(from: string, to: string): Promise<void> {
    await this.#transfer('mv -T', from, to);
  }

  async copy(from: string, to: string): Promise<void> {
    await this.#transfer('cp -RT', from, to);
  }

  /** One to three groups of `rwx`, for user, group and others; only given ones change. */
  async chmod(path: string, permissions: string): Promise<void> {
    if (!/^([r-][w-][x-]){1,3}$/.test(permissions))
      throw new GridError(
        'BAD_REQUEST',
        `permissions "${permissions}" are not one to three groups of rwx, such as rwxr-x---`,
      );
    const { path: file } = await this.stat(path);
    const groups = permissions.match(/.../g) ?? [];
    const mode = groups.map((group, i) => `${'ugo'.charAt(i)}=${group.replaceAll('-', '')}`);
    await this.#run(`chmod ${mode.join(',')} -- ${await this.#quoted(file)}`);
  }

  async space(): Promise<Space> {
    const { identity, tsi } = this.#options;
    return await tsi().space(identity, await this.mountPoint());
  }

  async #transfer(command: string, from: string, to: string): Promise<void> {
    const { path: source } = await this.stat(from);
    const target = normalisePath(to);
    if (source === '/' || target === '/')
      throw new GridError('BAD_REQUEST', 'the root of a storage stays', { from, to });
    await this.#run(`${command} -- ${await this.#quoted(source)} ${await this.#quoted(target)}`);
  }

  async #directory(path: string): Promise<string> {
    const found = await this.stat(path);
    if (found.isDirectory) return found.path;
    throw new GridError('BAD_REQUEST', `"${found.path}" is not a directory`, { path });
  }

  /** Entries with their path from our root. */
  async #list(path: string, mode: 'A' | 'N'): Promise<FileInfo[]> {
    const { identity, tsi } = this.#options;
    const entries = await tsi().list(identity, await this.#absolute(path), mode);
    const base = path === '/' ? '' : path;
    return entries.map((entry) => ({ ...entry, path: `${base}/${nameOf(entry.path)}` }));
  }

  async #run(command: string): Promise<void> {
    const { identity, tsi } = this.#options;
    await tsi().execute(identity, `umask ${this.#umask}\n${command}`);
  }

  async *#chunks(
    path: string,
    range: FileRange,
    options: CallOptions,
  ): AsyncGenerator<Buffer, void, void> {
    const absolute = await this.#absolute(path);
    const { identity, tsi } = this.#options;
    yield* tsi().read(identity, absolute, range, options) as AsyncIterable<Buffer>; // bytes: no encoding is set
  }

  async #absolute(path: string): Promise<string> {
    return (await this.#root()) + normalisePath(path);
  }

  async #quoted(path: string): Promise<string> {
    return quote(await this.#absolute(path));
  }

  /** Without slash at the end. Asked for once. */
  async #root(): Promise<string> {
    this.#resolvedRoot ??= this.#resolveRoot();
    try {
      return await this.#resolvedRoot;
    } catch (error) {
      this.#resolvedRoot = undefined;
      throw error;
    }
  }

  async #resolveRoot(): Promise<string> {
    const { root, identity, tsi } = this.#options;
    const [, below] = /^\$HOME(\/.*)?$/.exec(root) ?? [];
    const home = root.startsWith('$HOME')
      ? (await tsi().execute(identity, 'printf %s "${HOME}"')).trim()
      : '';
    const resolved = (root.startsWith('$HOME') ? home + (below ?? '') : root).replace(/\/+$/, '');
    if (resolved.startsWith('/') && !/[\r\n]/.test(resolved)) return resolved;
    throw new GridError('TSI_FAILED', `"${root}" is no directory that can be a storage`, { root });
  }
}

/** Removes a tree even where its owner has taken himself the right to. */
export function removal(absolutePath: string): string {
  const path = quote(absolutePath);
  return `rm -rf -- ${path} 2>/dev/null || { chmod -R u+rwX -- ${path}; rm -rf -- ${path}; }`;
}

function nameOf(path: string): string {
  return path.replace(/\/+$/, '').replace(/^.*\//, '');
}
