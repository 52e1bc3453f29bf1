import { execFile } from 'node:child_process';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { defaultCacheDirectory } from '#cli/quickstart/layout.js';

const run = promisify(execFile);

/** Of `$d`. What is imported is compiled then; all of it would take longer than the tests need. */
const install = 'python3 -m venv "$d" && "$d/bin/python3" -m pip install --quiet --no-compile "$@"';
const installOnce = `test -e "$d/complete" || { rm -rf "$d" && ${install} && touch "$d/complete"; }`;

/**
 * A Python with packages from their registry, kept in the cache. Of several processes that want it at once one installs it.
 * @returns path of the interpreter
 */
export async function pythonWith(packages: readonly string[]): Promise<string> {
  const directory = join(defaultCacheDirectory(), `python-${packages.join('-')}`);
  await mkdir(defaultCacheDirectory(), { recursive: true });
  return await runFor(directory, installOnce, packages, ['flock', `${directory}.lock`]);
}

/** The same in a folder of the caller's, with what the registry has today. @returns path of the interpreter */
export async function installPython(
  directory: string,
  packages: readonly string[],
): Promise<string> {
  return await runFor(directory, install, packages);
}

async function runFor(
  directory: string,
  script: string,
  packages: readonly string[],
  before: readonly string[] = [],
): Promise<string> {
  const shell = ['sh', '-c', `d=$1; shift; ${script}`, 'sh', directory, ...packages];
  const [program = '', ...args] = [...before, ...shell];
  await run(program, args, { timeout: 480_000 });
  return join(directory, 'bin', 'python3');
}
