import { StagingError } from './errors.js';
import { baseName } from './transfer.js';
import { hasWildcard, matcher } from './wildcard.js';

/** An entry of some file system; `path` from its root, without slashes at the ends. */
export type TreeEntry = { readonly path: string; readonly isDirectory: boolean };
export type Tree<Entry extends TreeEntry> = {
  /** @returns `undefined`: there is none */
  stat(path: string): Promise<Entry | undefined>;
  /** The entries of a directory. @throws {@link StagingError} there are too many */
  list(path: string): Promise<readonly Entry[]>;
};

/** What a path stands for: one file, or all that a directory or a pattern has below `base`. */
export type Expanded<Entry> =
  { readonly one: Entry } | { readonly base: string; readonly entries: readonly Entry[] };

export const maxEntries = 10_000;

/**
 * Directories give the files in them, however deep, and those directories that are empty. A part of the
 * path with a wildcard matches names of one directory; hidden ones only if it says so.
 * @param path names from the root on
 * @param decode of what is between wildcards
 * @throws {@link StagingError} `NOT_FOUND` there is none; `BAD_REQUEST` there are too many
 */
export async function expand<Entry extends TreeEntry>(
  tree: Tree<Entry>,
  path: readonly string[],
  decode?: (text: string) => string,
): Promise<Expanded<Entry>> {
  const entries: Entry[] = [];
  const add = (entry: Entry): void => {
    if (entries.length >= maxEntries)
      throw new StagingError('BAD_REQUEST', `there are more than ${maxEntries} files`);
    entries.push(entry);
  };
  const addTree = async (directory: Entry): Promise<void> => {
    const children = await tree.list(directory.path);
    if (children.length === 0) add(directory);
    for (const child of children)
      if (child.isDirectory) await addTree(child);
      else add(child);
  };
  const match = async (
    base: string,
    [pattern = '', ...deeper]: readonly string[],
  ): Promise<void> => {
    const fits = hasWildcard(pattern)
      ? matcher(pattern, decode)
      : (name: string): boolean => name === pattern;
    for (const entry of await tree.list(base)) {
      if (!fits(baseName(entry.path))) continue;
      if (!entry.isDirectory) {
        if (deeper.length === 0) add(entry);
      } else if (deeper.length === 0) await addTree(entry);
      else await match(entry.path, deeper);
    }
  };
  const first = path.findIndex(hasWildcard);
  const name = path.join('/');
  if (first < 0) {
    const found = await tree.stat(name);
    if (!found) throw new StagingError('NOT_FOUND', `there is no file /${name}`);
    if (!found.isDirectory) return { one: found };
    await addTree(found);
    return { base: name, entries: entries.filter((entry) => entry !== found) };
  }
  const base = path.slice(0, first).join('/');
  await match(base, path.slice(first));
  if (entries.length === 0) throw new StagingError('NOT_FOUND', `no file matches /${name}`);
  return { base, entries };
}

/** The path of an entry below the base of its expansion. */
export function below(base: string, { path }: TreeEntry): string {
  return base === '' ? path : path.slice(base.length + 1);
}
