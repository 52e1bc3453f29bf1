import type { Readable } from 'node:stream';
import { GridError } from '#kernel/errors.js';
import { linkSignals } from '#kernel/net/deadline.js';
import { LendingStream, piecesOf } from '#kernel/net/lending-stream.js';
import { quote, quoteExpanding } from '../incarnation/quote.js';
import type { AclEntry, CallOptions, Space, Tsi, TsiIdentity } from '../tsi/tsi.js';
import {
  belowRoot,
  fileNamed,
  isHidden,
  maxListed,
  parsePermissions,
  parseUmask,
  refuseIntoItself,
  type FileInfo,
  type FileListing,
  type FileRange,
  type FileSpace,
  type ListingPage,
  type Scan,
} from './file-space.js';
import { normalisePath, parentOf } from './path.js';
import { decodePage, decodeScan, pageScript, scanScript } from './tsi-scripts.js';

export type TsiFileSpaceOptions = {
  /**
   * Absolute directory on the target system, perhaps with variables of the user there: `$HOME/data`. One
   * that is not set is an error.
   */
  readonly root: string;
  readonly identity: TsiIdentity;
  /** Asked anew for each call: a target system is bound anew whenever its machine is. */
  readonly tsi: () => Tsi;
  /** Octal, for new files and directories. */
  readonly umask?: string;
  /** The root is made if it is missing, for everybody there to read. */
  readonly makesRoot?: boolean;
};

/** A directory that is larger than this itself holds so many entries that only a page is asked for. */
const largeDirectoryBytes = 64 * 1024;
const scanMs = 60_000;

/**
 * {@link FileSpace} on a target system. The account there is the fence: links are followed wherever they
 * lead, as by any program of that account.
 */
export class TsiFileSpace implements FileSpace {
  readonly #options: TsiFileSpaceOptions;
  readonly #umask: number;
  #resolvedRoot: Promise<string> | undefined;

  constructor(options: TsiFileSpaceOptions) {
    this.#options = options;
    this.#umask = parseUmask(options.umask ?? '077');
  }

  async mountPoint(): Promise<string> {
    return `${await this.#root()}/`;
  }

  get umask(): string {
    return this.#umask.toString(8);
  }

  withUmask(umask: string): FileSpace {
    return new TsiFileSpace({ ...this.#options, umask });
  }

  async stat(path: string): Promise<FileInfo> {
    const [entry] = await this.#list(normalisePath(path), 'A');
    if (entry) return { ...entry, path: normalisePath(path) };
    throw new GridError('NOT_FOUND', `there is no file "${normalisePath(path)}"`, { path });
  }

  /** What is a page of thousands is not fetched as a whole. */
  async list(
    path: string,
    { offset = 0, num = maxListed }: ListingPage = {},
  ): Promise<FileListing> {
    const { path: directory, sizeBytes } = await this.#directory(path);
    const size = Math.min(num, maxListed);
    if (sizeBytes > largeDirectoryBytes) return await this.#listPage(directory, offset, size);
    const entries = (await this.#list(directory, 'N'))
      .filter((entry) => !isHidden(nameOf(entry.path)))
      .sort((a, b) => (a.path < b.path ? -1 : 1));
    return { entries: entries.slice(offset, offset + size), total: entries.length };
  }

  read(path: string, range: FileRange = {}, options: CallOptions = {}): Readable {
    const file = normalisePath(path);
    return new LendingStream((lends) => this.#pieces(file, range, lends, options));
  }

  async write(
    path: string,
    source: Readable,
    { append = false, ...options }: { append?: boolean } & CallOptions = {},
  ): Promise<number> {
    const file = fileNamed(path);
    const { identity, tsi } = this.#options;
    const found = await this.#list(file, 'A');
    if (found[0]?.isDirectory)
      throw new GridError('BAD_REQUEST', `"${file}" is a directory`, { path });
    if (!found[0]) await this.mkdir(parentOf(file));
    const mode = 0o666 & ~this.#umask;
    const absolute = await this.#absolute(file);
    return await tsi().write(identity, absolute, source, { mode, append }, options);
  }

  async mkdir(path: string): Promise<void> {
    const directory = normalisePath(path);
    const [found] = await this.#list(directory, 'A');
    if (found?.isDirectory) return;
    if (found) throw new GridError('BAD_REQUEST', `"${directory}" is a file`, { path });
    await this.#run(`mkdir -p -- ${await this.#quoted(directory)}`);
  }

  async remove(path: string): Promise<void> {
    await this.#run(removal(await this.#absolute(belowRoot(path))));
  }

  async destroy(): Promise<void> {
    await this.#run(removal(await this.#root()));
  }

  async rename(from: string, to: string): Promise<void> {
    await this.#transfer('mv -T', from, to);
  }

  async copy(from: string, to: string): Promise<void> {
    await this.#transfer('cp -RT', from, to);
  }

  async chmod(path: string, permissions: string): Promise<void> {
    const groups = parsePermissions(permissions);
    const { path: file } = await this.stat(path);
    const letters = (bits: number): string =>
      ['r', 'w', 'x'].filter((_, at) => bits & (4 >> at)).join('');
    const mode = groups.map((bits, at) => `${'ugo'.charAt(at)}=${letters(bits)}`);
    await this.#run(`chmod ${mode.join(',')} -- ${await this.#quoted(file)}`);
  }

  async chgrp(path: string, group: string): Promise<void> {
    if (!/^[A-Za-z0-9_][\w.@-]{0,63}$/.test(group))
      throw new GridError('BAD_REQUEST', `"${group}" is not the name of a group`);
    const { path: file } = await this.stat(path);
    await this.#run(`chgrp ${quote(group)} -- ${await this.#quoted(file)}`);
  }

  async acl(path: string): Promise<readonly AclEntry[] | undefined> {
    const { identity, tsi } = this.#options;
    const { path: file } = await this.stat(path);
    const absolute = await this.#absolute(file);
    if (!(await tsi().aclSupport(identity, absolute))) return undefined;
    return await tsi().getAcl(identity, absolute);
  }

  async setAcl(path: string, entries: readonly AclEntry[]): Promise<void> {
    const { identity, tsi } = this.#options;
    const { path: file } = await this.stat(path);
    const absolute = await this.#absolute(file);
    if (!(await tsi().aclSupport(identity, absolute)))
      throw new GridError('NOT_IMPLEMENTED', 'access control lists are not supported here');
    await tsi().setAcl(identity, absolute, { operation: 'RM_ALL' });
    for (const entry of entries)
      await tsi().setAcl(identity, absolute, { operation: 'MODIFY', entry });
  }

  async space(): Promise<Space> {
    const { identity, tsi } = this.#options;
    return await tsi().space(identity, await this.mountPoint());
  }

  async scan({ signal }: CallOptions = {}): Promise<Scan> {
    const { identity, tsi } = this.#options;
    using ended = linkSignals(signal, AbortSignal.timeout(scanMs));
    const script = scanScript(await this.#root());
    return decodeScan(await tsi().execute(identity, script, { signal: ended.signal }));
  }

  async #transfer(command: string, from: string, to: string): Promise<void> {
    const { path: source } = await this.stat(from);
    const target = normalisePath(to);
    belowRoot(source);
    belowRoot(target);
    refuseIntoItself(source, target);
    await this.#run(`${command} -- ${await this.#quoted(source)} ${await this.#quoted(target)}`);
  }

  async #directory(path: string): Promise<FileInfo> {
    const found = await this.stat(path);
    if (found.isDirectory) return found;
    throw new GridError('BAD_REQUEST', `"${found.path}" is not a directory`, { path });
  }

  /** Entries with their path from our root. */
  async #list(path: string, mode: 'A' | 'N'): Promise<FileInfo[]> {
    const { identity, tsi } = this.#options;
    const entries = await tsi().list(identity, await this.#absolute(path), mode);
    const base = path === '/' ? '' : path;
    return entries.map((entry) => ({ ...entry, path: `${base}/${nameOf(entry.path)}` }));
  }

  async #listPage(directory: string, offset: number, num: number): Promise<FileListing> {
    const { identity, tsi } = this.#options;
    const script = pageScript(await this.#absolute(directory), offset, num);
    return decodePage(await tsi().execute(identity, script), directory, identity.login);
  }

  async #run(command: string): Promise<void> {
    const { identity, tsi } = this.#options;
    await tsi().execute(identity, `umask ${this.umask}\n${command}`);
  }

  async *#pieces(
    path: string,
    range: FileRange,
    lends: boolean,
    options: CallOptions,
  ): AsyncGenerator<Buffer, void, undefined> {
    const absolute = await this.#absolute(path);
    const { identity, tsi } = this.#options;
    yield* piecesOf(tsi().read(identity, absolute, range, options), lends);
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
    const text = root.includes('$')
      ? await tsi().execute(identity, `set -u; printf %s ${quoteExpanding(root)}`)
      : root;
    const resolved = text.replace(/\/+$/, '');
    if (!resolved.startsWith('/') || /[\r\n]/.test(resolved))
      throw new GridError('TSI_FAILED', `"${root}" is no directory that can be a storage`, {
        root,
      });
    if (this.#options.makesRoot)
      await tsi().execute(identity, `umask 022; mkdir -p -- ${quote(resolved)}`);
    return resolved;
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
