import { constants, type Stats } from 'node:fs';
import { lstat, open, readlink, type FileHandle } from 'node:fs/promises';
import { GridError } from '#kernel/errors.js';

const { O_DIRECTORY, O_NOFOLLOW, O_RDONLY } = constants;
/** Linux: a handle that only names a file, for which no right to read it is needed. */
export const O_PATH = 0o10000000;

/** As the kernel's own limit for one path. */
const maxLinks = 40;

/** The directory that something is in, opened, and its name there; without `stat`: nothing is there. */
export type Place = AsyncDisposable & {
  readonly directory: FileHandle;
  /** `.` for the root itself. */
  readonly name: string;
  /** For the system calls of Node, which know no `openat`: the name below the opened directory. */
  readonly path: string;
  readonly stat?: Stats;
};

type Missing = 'refuse' | 'last' | 'make';
export type FindOptions = {
  /** A link as last part: itself is meant, not what it leads to. */
  readonly keepLast?: boolean;
  /** What need not be there: nothing, the last part; `make`: directories above it are made. */
  readonly missing?: Missing;
  /** Makes a directory in an opened one. */
  readonly makeDirectory?: (path: string) => Promise<void>;
};

/** `name` in an opened directory: nobody can exchange what is above it any more. */
export function within({ fd }: FileHandle, name: string): string {
  return `/proc/self/fd/${fd}/${name}`;
}

export async function openDirectory(path: string): Promise<FileHandle> {
  return await open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
}

/**
 * Walks down from a root, one opened directory after the other, so that no link leads out, however
 * quickly somebody exchanges directories for links meanwhile. Relative links are followed as long as
 * they stay below the root, absolute ones are not.
 * @param root opened anew for each walk
 * @param path canonical, as of `normalisePath`
 * @throws `NOT_FOUND`, `BAD_REQUEST`
 */
export async function findBeneath(
  root: () => Promise<FileHandle>,
  path: string,
  options: FindOptions = {},
): Promise<Place> {
  let parts = path.split('/').filter(Boolean);
  for (let links = 0; links <= maxLinks; links++) {
    const found = await walk(await root(), parts, path, options);
    if ('directory' in found) return found;
    parts = joined(found.above, found.target, found.below, path);
  }
  throw new GridError('BAD_REQUEST', `"${path}": too many links`, { path });
}

type Link = {
  readonly above: readonly string[];
  readonly target: string;
  readonly below: readonly string[];
};

async function walk(
  root: FileHandle,
  parts: readonly string[],
  path: string,
  options: FindOptions,
): Promise<Place | Link> {
  let directory = root;
  try {
    for (const [at, name] of parts.entries()) {
      const isLast = at === parts.length - 1;
      const here = within(directory, name);
      let stat = await statOrNothing(here);
      if (!stat && !isLast && options.missing === 'make') {
        await options.makeDirectory?.(here);
        stat = await statOrNothing(here);
      }
      if (!stat && (!isLast || (options.missing ?? 'refuse') === 'refuse'))
        throw new GridError('NOT_FOUND', `there is no file "${path}"`, { path });
      if (stat?.isSymbolicLink() && !(isLast && options.keepLast)) {
        const target = await readlink(here);
        await directory.close();
        return { above: parts.slice(0, at), target, below: parts.slice(at + 1) };
      }
      if (isLast) return placed(directory, name, stat);
      const next = await openDirectory(here);
      await directory.close();
      directory = next;
    }
    return placed(directory, '.', await directory.stat());
  } catch (error) {
    await directory.close();
    throw readable(error, path);
  }
}

function placed(directory: FileHandle, name: string, stat: Stats | undefined): Place {
  return {
    directory,
    name,
    path: within(directory, name),
    ...(stat && { stat }),
    [Symbol.asyncDispose]: () => directory.close(),
  };
}

async function statOrNothing(path: string): Promise<Stats | undefined> {
  try {
    return await lstat(path);
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return undefined;
    throw error;
  }
}

/** The parts once a link is replaced by where it leads. */
function joined(
  above: readonly string[],
  target: string,
  below: readonly string[],
  path: string,
): string[] {
  const leadsOut = new GridError(
    'BAD_REQUEST',
    `"${path}" is a link that leads out of the storage`,
  );
  if (target.startsWith('/')) throw leadsOut;
  const parts = [...above];
  for (const part of target.split('/')) {
    if (part === '' || part === '.') continue;
    if (part !== '..') parts.push(part);
    else if (parts.pop() === undefined) throw leadsOut;
  }
  return [...parts, ...below];
}

export function codeOf(error: unknown): string | undefined {
  return (error as NodeJS.ErrnoException).code;
}

const reasons: Readonly<
  Record<string, readonly ['NOT_FOUND' | 'BAD_REQUEST' | 'FORBIDDEN' | 'STORAGE_FULL', string]>
> = {
  ENOENT: ['NOT_FOUND', 'is not there'],
  ENOTDIR: ['BAD_REQUEST', 'leads through something that is no directory'],
  EISDIR: ['BAD_REQUEST', 'is a directory'],
  EEXIST: ['BAD_REQUEST', 'is there already'],
  ENOTEMPTY: ['BAD_REQUEST', 'is a directory that is not empty'],
  ELOOP: ['BAD_REQUEST', 'became a link meanwhile'],
  EINVAL: ['BAD_REQUEST', 'cannot be used for that'],
  ENAMETOOLONG: ['BAD_REQUEST', 'has too long a name'],
  EACCES: ['FORBIDDEN', 'may not be used'],
  EPERM: ['FORBIDDEN', 'may not be used'],
  ENOSPC: ['STORAGE_FULL', 'finds no space left'],
  EDQUOT: ['STORAGE_FULL', 'finds no space left'],
};

/** What the operating system refuses, in words about the user's path instead of ours. */
export function readable(error: unknown, path: string): unknown {
  const [code, text] = reasons[codeOf(error) ?? ''] ?? [];
  if (code === undefined || text === undefined || error instanceof GridError) return error;
  return new GridError(code, `"${path}" ${text}`, { path }, { cause: error });
}
