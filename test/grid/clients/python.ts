import { execFile } from 'node:child_process';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { defaultCacheDirectory } from '#cli/quickstart/layout.js';

const run = promisify(execFile);

const installOnce =
  'd=$1; shift; test -e "$d/complete" || { rm -rf "$d" && python3 -m venv "$d" && ' +
  '"$d/bin/python3" -m pip install --quiet --no-compile "$@" && touch "$d/complete"; }';

/**
 * A Python with packages from their registry, kept in the cache. Of several processes that want it at once one installs it.
 * @returns path of the interpreter
 */
export async function pythonWith(packages: readonly string[]): Promise<string> {
  const directory = join(defaultCacheDirectory(), `python-${packages.join('-')}`);
  await mkdir(defaultCacheDirectory(), { recursive: true });
  const install = ['sh', '-c', installOnce, 'sh', directory, ...packages];
  await run('flock', [`${directory}.lock`, ...install], { timeout: 480_000 });
  return join(directory, 'bin', 'python3');
}

/** The same in a folder of the caller's, with what the registry has today. @returns path of the interpreter */
export async function installPython(
  directory: string,
  packages: readonly string[],
): Promise<string> {
  const python = join(directory, 'bin', 'python3');
  await run('python3', ['-m', 'venv', directory], { timeout: 120_000 });
  // what is imported is compiled then; all of it would take longer than the tests need
  const install = ['-m', 'pip', 'install', '--quiet', '--no-compile', ...packages];
  await run(python, install, { timeout: 240_000 });
  return python;
}
