import type { Stats } from 'node:fs';
import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';

/**
 * Calls `changed` when one of the paths may have other contents; folders count with what is in them. By polling:
 * watchers of the system miss mounted and linked files, where certificates often are.
 * @returns stops it
 */
export function watchPaths(
  paths: () => readonly string[],
  changed: () => Promise<void>,
  intervalMs: number,
  initial: string,
): () => void {
  let known = initial;
  let busy = false;
  const look = async () => {
    const found = await versionOf(paths());
    if (found === known) return;
    // Before the contents are read: a change in between is seen the next time
    known = found;
    await changed();
  };
  const timer = setInterval(() => {
    if (busy) return;
    busy = true;
    void look().finally(() => (busy = false));
  }, intervalMs);
  timer.unref();
  return () => clearInterval(timer);
}

/** Differs whenever the contents may. */
export async function versionOf(paths: readonly string[]): Promise<string> {
  const versions = await Promise.all(paths.map(versionOfPath));
  return versions.join('\n');
}

async function versionOfPath(path: string): Promise<string> {
  const entry = await stat(path).catch(() => undefined);
  if (!entry?.isDirectory()) return versionOfEntry(path, entry);
  const names = (await readdir(path).catch(() => [])).sort();
  const versions = names.map(async (name) => {
    const inner = join(path, name);
    return versionOfEntry(inner, await stat(inner).catch(() => undefined));
  });
  return (await Promise.all(versions)).join('\n');
}

function versionOfEntry(path: string, entry: Stats | undefined): string {
  if (!entry) return `${path} missing`;
  return `${path} ${entry.mtimeMs} ${entry.size} ${entry.ino}`;
}
