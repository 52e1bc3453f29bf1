import { isUtf8 } from 'node:buffer';
import {
  close,
  closeSync,
  constants,
  fchmodSync,
  fstatSync,
  openSync,
  read,
  readdirSync,
  readSync,
  statfsSync,
  statSync,
  writev,
  writevSync,
  type Stats,
} from 'node:fs';
import { promisify } from 'node:util';
import { TsiError } from '../protocol/error.js';
import type { ListedFile } from '../protocol/listing.js';
import type { Space } from '../protocol/status.js';
import type { Accounts } from './accounts.js';
import { KeptFiles } from './kept-files.js';
import { Pace } from './pace.js';
import type { User, Users } from './users.js';

const readFd = promisify(read);
const writevFd = promisify(writev);
const closeFd = promisify(close);
const reading = new Pace();
const writing = new Pace();

/** A listing longer than this is refused: it is one message. */
const maxEntries = 200_000;
const entriesPerTurn = 500;

/**
 * Files as a user sees them. Whatever takes a path is synchronous, because it happens with the user's ids
 * (ADR 005); bytes move asynchronously on the opened descriptor.
 */
export class Files {
  readonly #users: Users;
  readonly #accounts: Accounts;
  readonly #kept = new KeptFiles();

  constructor(users: Users, accounts: Accounts) {
    this.#users = users;
    this.#accounts = accounts;
  }

  /** `$HOME`, `$USER` and `$LOGNAME` as UNICORE/X sends them; `$HOME_DIR` is none of them. */
  expand(user: User, path: string, literal: boolean | undefined): string {
    if (literal) return path;
    return path.replaceAll(/\$(HOME|USER|LOGNAME)\b/g, (_, name) =>
      name === 'HOME' ? user.home : user.login,
    );
  }

  /** The beginning of a file. */
  async readStart(user: User, path: string, length: number): Promise<Buffer> {
    const source = this.openToRead(user, path);
    try {
      const buffer = Buffer.alloc(source.available(0, length));
      return buffer.subarray(0, await source.read(buffer, 0, buffer.length));
    } finally {
      await source.close(false);
    }
  }

  openToRead(user: User, path: string): FileSource {
    const { fd, key } = this.#open(user, path, constants.O_RDONLY);
    return {
      available: (offset, length) => wantedOf(fstatSync(fd), offset, length),
      read: async (buffer, offset, length) => {
        let filled = 0;
        while (filled < length) {
          const at = offset + filled;
          const left = length - filled;
          const bytes = await reading.run(
            () => readSync(fd, buffer, filled, left, at),
            async () => (await readFd(fd, buffer, filled, left, at)).bytesRead,
          );
          if (bytes === 0) break;
          filled += bytes;
        }
        return filled;
      },
      close: async (moreFollows) => {
        if (moreFollows) this.#kept.keep(key, fd);
        else await closeFd(fd);
      },
    };
  }

  openToWrite(user: User, path: string, append: boolean): FileSink {
    const { O_WRONLY, O_CREAT, O_APPEND, O_TRUNC } = constants;
    const { fd, key } = this.#open(user, path, O_WRONLY | O_CREAT | O_APPEND, !append && O_TRUNC);
    return {
      write: async (pieces) => {
        for (let rest = pieces; rest.length > 0;) {
          const bytes = await writing.run(
            () => writevSync(fd, rest),
            async () => (await writevFd(fd, rest)).bytesWritten,
          );
          rest = after(rest, bytes);
        }
      },
      close: async (mode, moreFollows) => {
        this.#setMode(user, fd, mode);
        if (moreFollows) this.#kept.keep(key, fd);
        else await closeFd(fd);
      },
    };
  }

  /** Mostly it is right already, and to act as another costs more than to look. */
  #setMode(user: User, fd: number, mode: number): void {
    if ((fstatSync(fd).mode & 0o7777) === mode) return;
    try {
      this.#users.as(user, () => fchmodSync(fd, mode));
    } catch {
      // the file is someone else's: its mode stays, as in stock TSIs
    }
  }

  /**
   * Regular files only; a pipe would hold up the whole agent.
   * @param once flags for the opening itself: with them it is opened anew
   */
  #open(user: User, path: string, flags: number, once: number | false = false): OpenFile {
    const key = [user.uid, user.gid, user.groups, flags, path].join(':');
    const kept = this.#kept.take(key, path);
    if (kept !== undefined && once === false) return { fd: kept, key };
    if (kept !== undefined) closeSync(kept);
    const how = flags | (once || 0) | constants.O_NONBLOCK;
    const fd = this.#users.as(user, () => openSync(path, how, 0o600));
    if (fstatSync(fd).isFile()) return { fd, key };
    closeSync(fd);
    throw new TsiError('TSI_FAILED', `${path} is not a regular file`);
  }

  space(user: User, path: string): Space {
    const { bsize, blocks, bavail } = this.#users.as(user, () => statfsSync(path));
    return { totalBytes: bsize * blocks, freeBytes: bsize * bavail, userBytes: -1 };
  }

  /** What cannot be seen is not there: a missing path is an empty listing. Links are followed. */
  async list(user: User, path: string, mode: 'A' | 'N' | 'R'): Promise<ListedFile[]> {
    const root = this.#users.as(user, () => this.#entry(user, path));
    if (!root) return [];
    if (mode === 'A' || !root.file.isDirectory) return [root.file];
    const found: ListedFile[] = [];
    await this.#descend(user, root, mode === 'R', new Set(), found);
    return found;
  }

  /** Children before the directory they are in. `above` keeps links from going round in circles. */
  async #descend(
    user: User,
    { file, key }: Entry,
    deep: boolean,
    above: ReadonlySet<string>,
    found: ListedFile[],
  ): Promise<void> {
    if (above.has(key)) return;
    const within = new Set(above).add(key);
    const names = this.#users.as(user, () => childrenOf(file.path));
    for (let at = 0; at < names.length; at += entriesPerTurn) {
      if (found.length >= maxEntries)
        throw new TsiError('TSI_FAILED', `more than ${maxEntries} files below ${file.path}`);
      const turn = names.slice(at, at + entriesPerTurn);
      const children = this.#users.as(user, () =>
        turn.flatMap((path) => this.#entry(user, path) ?? []),
      );
      for (const child of children) {
        if (deep && child.file.isDirectory) await this.#descend(user, child, deep, within, found);
        found.push(child.file);
      }
      await new Promise((resolve) => setImmediate(resolve)); // others have their turn
    }
  }

  #entry(user: User, path: string): Entry | undefined {
    try {
      const stat = statSync(path);
      return { file: this.#describe(user, path, stat), key: `${stat.dev}:${stat.ino}` };
    } catch {
      return undefined;
    }
  }

  #describe(user: User, path: string, stat: Stats): ListedFile {
    const letters = (bits: number): string =>
      ['r', 'w', 'x'].map((letter, at) => (bits & (4 >> at) ? letter : '-')).join('');
    // from the mode, since access(2) asks for the real ids; lists of access rights are not seen
    const shift = stat.uid === user.uid ? 6 : user.groups.includes(stat.gid) ? 3 : 0;
    return {
      path,
      isDirectory: stat.isDirectory(),
      sizeBytes: stat.size,
      modifiedMs: Math.floor(stat.mtimeMs / 1_000) * 1_000,
      permissions: [6, 3, 0].map((by) => letters(stat.mode >> by)).join(''),
      owner: oneWord(this.#accounts.userName(stat.uid), stat.uid),
      group: oneWord(this.#accounts.groupName(stat.gid), stat.gid),
      ownedByCaller: stat.uid === user.uid,
      access: letters(stat.mode >> shift),
    };
  }
}

/** `key`: by which it is found again if it is kept. */
type OpenFile = { readonly fd: number; readonly key: string };
type Entry = { readonly file: ListedFile; readonly key: string };
export type FileSource = {
  /** How much of the range there is, as far as that can be told. */
  readonly available: (offset: number, length: number) => number;
  /** @returns bytes read into the buffer, less than `length` only at the end of the file */
  readonly read: (buffer: Buffer, offset: number, length: number) => Promise<number>;
  /** @param moreFollows the next chunk comes soon */
  readonly close: (moreFollows: boolean) => Promise<void>;
};
export type FileSink = {
  readonly write: (pieces: readonly Buffer[]) => Promise<void>;
  readonly close: (mode: number, moreFollows: boolean) => Promise<void>;
};

/** Files of size 0 may hold something all the same: those in /proc do. */
function wantedOf({ size }: Stats, offset: number, length: number): number {
  return size === 0 ? Math.min(length, 65_536) : Math.max(0, Math.min(length, size - offset));
}

/** What is left of a list when its first bytes are gone. */
function after(pieces: readonly Buffer[], bytes: number): readonly Buffer[] {
  let gone = bytes;
  for (const [at, piece] of pieces.entries()) {
    if (gone < piece.length) return [piece.subarray(gone), ...pieces.slice(at + 1)];
    gone -= piece.length;
  }
  return [];
}

/** Paths of a directory's children; names that are not UTF-8 cannot be said on the wire. */
function childrenOf(path: string): string[] {
  const base = path.endsWith('/') ? path : `${path}/`;
  try {
    const names = readdirSync(path, { encoding: 'buffer' });
    return names.filter((name) => isUtf8(name)).map((name) => `${base}${name.toString()}`);
  } catch {
    return [];
  }
}

function oneWord(name: string, id: number): string {
  return /^\S+$/.test(name) ? name : String(id);
}
