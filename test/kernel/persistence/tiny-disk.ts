import { execFile } from 'node:child_process';
import { mkdtemp, rmdir } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { errorText } from '#kernel/errors.js';
import type { Scope } from '#kernel/scope.js';

const run = promisify(execFile);

/** A file system of a few megabytes, to fill it. Needs the right to mount. */
export async function mountTinyDisk(
  scope: Scope,
  size: string,
): Promise<{ path: string } | { skip: string }> {
  const path = await mkdtemp(join(tmpdir(), 'tiny-disk-'));
  scope.defer(() => rmdir(path));
  try {
    await run('mount', ['-t', 'tmpfs', '-o', `size=${size}`, 'tmpfs', path]);
  } catch (error) {
    return { skip: `cannot mount a small file system here: ${errorText(error)}` };
  }
  // what still has a file there open, as another process that is about to begin may, keeps it for that long
  scope.defer(() => run('umount', ['--lazy', path]));
  return { path };
}
