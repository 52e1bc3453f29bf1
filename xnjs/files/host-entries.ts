import type { Stats } from 'node:fs';
import { lstat, readdir, type FileHandle } from 'node:fs/promises';
import { userInfo } from 'node:os';
import { within } from './beneath.js';
import type { FileInfo } from './file-space.js';

const statsAtOnce = 64;
/** The last is what Node makes of what is no UTF-8. */
const unspeakable = /[\r\n\\\uFFFD]/;
const us = userInfo();

/** Names that can be said in a path. */
export async function namesIn(directory: FileHandle): Promise<string[]> {
  const names = await readdir(within(directory, '.'));
  return names.filter((name) => !unspeakable.test(name));
}

/** What is gone meanwhile is left out. */
export async function* statsIn(
  directory: FileHandle,
  names: readonly string[],
): AsyncGenerator<{ name: string; stat: Stats }, void, void> {
  for (let at = 0; at < names.length; at += statsAtOnce) {
    const some = names.slice(at, at + statsAtOnce);
    const stats = await Promise.all(
      some.map((name) => lstat(within(directory, name)).catch(() => undefined)),
    );
    for (const [i, stat] of stats.entries()) {
      const name = some[i];
      if (stat && name !== undefined) yield { name, stat };
    }
  }
}

export function childOf(directory: string, name: string): string {
  return directory === '/' ? `/${name}` : `${directory}/${name}`;
}

export function describe(path: string, stat: Stats): FileInfo {
  const letters = (bits: number): string =>
    ['r', 'w', 'x'].map((letter, at) => (bits & (4 >> at) ? letter : '-')).join('');
  return {
    path,
    isDirectory: stat.isDirectory(),
    sizeBytes: stat.size,
    modifiedMs: Math.floor(stat.mtimeMs / 1_000) * 1_000,
    permissions: [6, 3, 0].map((by) => letters(stat.mode >> by)).join(''),
    owner: stat.uid === us.uid ? us.username : String(stat.uid),
    group: String(stat.gid),
    ownedByCaller: stat.uid === us.uid,
  };
}
