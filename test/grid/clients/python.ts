import { execFile } from 'node:child_process';
import { mkdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { defaultCacheDirectory } from '#cli/quickstart/layout.js';
import { exists } from '../grid.js';

const run = promisify(execFile);

/** A Python with packages from their registry, kept in the cache. @returns path of the interpreter */
export async function pythonWith(packages: readonly string[]): Promise<string> {
  const directory = join(defaultCacheDirectory(), `python-${packages.join('-')}`);
  const python = join(directory, 'bin', 'python3');
  if (await exists(join(directory, 'complete'))) return python;
  await rm(directory, { recursive: true, force: true });
  await mkdir(defaultCacheDirectory(), { recursive: true });
  await installPython(directory, packages);
  await mkdir(join(directory, 'complete.new'));
  await rename(join(directory, 'complete.new'), join(directory, 'complete'));
  return python;
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
