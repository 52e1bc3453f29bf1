import type { FileInfo, FileSpace } from '../files/file-space.js';
import { asGridError } from '#kernel/errors.js';
import { StagingError } from './errors.js';
import { maxEntries, type Tree } from './expand.js';
import { baseName } from './transfer.js';

/** A directory tree of a target system, without what transfers have under way there. */
export function treeOf(files: FileSpace): Tree<FileInfo> {
  return {
    async stat(path) {
      try {
        return bare(await files.stat(path));
      } catch (error) {
        if (asGridError(error)?.code === 'NOT_FOUND') return undefined;
        throw error;
      }
    },
    async list(path) {
      const { entries, total } = await files.list(path);
      if (total > maxEntries)
        throw new StagingError('BAD_REQUEST', `/${path} has more than ${maxEntries} entries`);
      return entries.filter((entry) => !baseName(entry.path).startsWith('.UNICORE_')).map(bare);
    },
  };
}

function bare(entry: FileInfo): FileInfo {
  return { ...entry, path: entry.path.slice(1) };
}

/** Names of a path from its root on. */
export function namesOf(canonicalPath: string): string[] {
  return canonicalPath.split('/').filter((name) => name !== '');
}
