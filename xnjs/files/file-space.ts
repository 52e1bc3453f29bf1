import type { Readable } from 'node:stream';
import { GridError } from '#kernel/errors.js';
import type { AclEntry, CallOptions, FileEntry, Space } from '../tsi/tsi.js';
import { normalisePath } from './path.js';

/** A file as seen from the root: `path` begins with `/`, without a slash at the end. */
export type FileInfo = Omit<FileEntry, 'path'> & { readonly path: string };
/** A page, and how many there are in all. */
export type FileListing = { readonly entries: readonly FileInfo[]; readonly total: number };

export type FileRange = { readonly offset?: number; readonly length?: number };
export type ListingPage = { readonly offset?: number; readonly num?: number };

/** Everything below a root, for a search; `complete` is false where a limit ended it. */
export type Scan = {
  readonly files: readonly string[];
  /** Text of metadata files, by the path of the file that each is about. */
  readonly metadata: ReadonlyMap<string, string>;
  readonly complete: boolean;
};

/**
 * A directory tree with a user's rights: a storage or a job's directory. Paths are decoded by the
 * caller, and may not lead out of the root.
 * @throws `NOT_FOUND`, `BAD_REQUEST` naming the path; `TSI_UNAVAILABLE`, `TSI_FAILED`, `TSI_PROTOCOL`;
 * `STORAGE_FULL`
 */
export type FileSpace = {
  /** Octal, for new files and directories, without leading zeros. */
  readonly umask: string;
  /** The same files; what is made through it gets another umask. */
  withUmask(umask: string): FileSpace;
  /** The absolute root, with a slash at the end. */
  mountPoint(): Promise<string>;
  stat(path: string): Promise<FileInfo>;
  /** A page of the children, by name, without hidden metadata files. */
  list(path: string, page?: ListingPage): Promise<FileListing>;
  /** Streams a file, or a range of it. Whether it exists, `stat` says. */
  read(path: string, range?: FileRange, options?: CallOptions): Readable;
  /** Replaces a file, or appends to it; missing parents are made. @returns bytes written */
  write(
    path: string,
    source: Readable,
    how?: { readonly append?: boolean } & CallOptions,
  ): Promise<number>;
  /** With parents; one that exists is fine. */
  mkdir(path: string): Promise<void>;
  /** Directories with all that is in them; what is not there is fine. The root stays. */
  remove(path: string): Promise<void>;
  /** What is at `to` is replaced, but no directory that holds something. */
  rename(from: string, to: string): Promise<void>;
  /** Directories with all that is in them. */
  copy(from: string, to: string): Promise<void>;
  /** `rwxr-x---` (one to three groups, only given ones change) or octal, `750`. */
  chmod(path: string, permissions: string): Promise<void>;
  chgrp(path: string, group: string): Promise<void>;
  /** Further access rights by name; `undefined` where there is no such thing. */
  acl(path: string): Promise<readonly AclEntry[] | undefined>;
  /** Replaces them all. */
  setAcl(path: string, entries: readonly AclEntry[]): Promise<void>;
  space(): Promise<Space>;
  /** Names and metadata of all that is there, within limits. */
  scan(options?: CallOptions): Promise<Scan>;
  /** Removes the root itself, with all that is in it. */
  destroy(): Promise<void>;
};

/** The most that one page of a listing holds. */
export const maxListed = 10_000;
/** Limits of a search: bytes of names and of metadata that are looked at, and of one metadata file. */
export const scanLimits = { bytes: 4 * 1024 * 1024, fileBytes: 64 * 1024 } as const;

const longestName = 255;
const metadataName = /^\.(.+)\.metadata$/;

/** Where UNICORE keeps the metadata of a file: beside it, hidden. The root and very long names have none. */
export function metadataPath(path: string): string | undefined {
  const file = normalisePath(path);
  const at = file.lastIndexOf('/') + 1;
  const name = `.${file.slice(at)}.metadata`;
  return file === '/' || Buffer.byteLength(name) > longestName
    ? undefined
    : file.slice(0, at) + name;
}

/** The file that a metadata file is about; `undefined` for other files. */
export function describedFile(path: string): string | undefined {
  const at = path.lastIndexOf('/') + 1;
  const [, name] = metadataName.exec(path.slice(at)) ?? [];
  return name === undefined ? undefined : path.slice(0, at) + name;
}

const octalPermissions = /^0?([0-7])([0-7])([0-7])$/;
const letterGroups = /^(?:[r-][w-][x-]){1,3}$/;

/** Bits of `rwx` for each group that is given, user first. @throws `BAD_REQUEST` */
export function parsePermissions(text: string): readonly number[] {
  const octal = octalPermissions.exec(text);
  if (octal) return octal.slice(1).map(Number);
  if (letterGroups.test(text))
    return (text.match(/.../g) ?? []).map((group) =>
      Number.parseInt(group.replaceAll('-', '0').replaceAll(/[rwx]/g, '1'), 2),
    );
  throw new GridError(
    'BAD_REQUEST',
    `permissions "${text}" are neither one to three groups of rwx, such as rwxr-x---, nor octal, such as 750`,
  );
}

export function parseUmask(text: string): number {
  return Number.parseInt(text, 8);
}

/** What may be read or written by its name. @throws `BAD_REQUEST` for the name of a directory */
export function fileNamed(path: string): string {
  const file = normalisePath(path);
  if (file !== '/' && !path.endsWith('/')) return file;
  throw new GridError('BAD_REQUEST', `"${path}" names a directory, not a file`, { path });
}

/** @throws `BAD_REQUEST` for the root */
export function belowRoot(path: string): string {
  const file = normalisePath(path);
  if (file !== '/') return file;
  throw new GridError('BAD_REQUEST', 'the root of a storage stays', { path });
}

/** @throws `BAD_REQUEST` if a directory would end up in itself */
export function refuseIntoItself(from: string, to: string): void {
  if (to === from || to.startsWith(`${from}/`))
    throw new GridError('BAD_REQUEST', `"${to}" is "${from}" itself, or in it`, { from, to });
}

export function isHidden(name: string): boolean {
  return metadataName.test(name);
}
