import { copyFile, mkdir, mkdtemp, rename, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { bundleAgent } from './agent.js';
import { findPrograms } from './programs.js';
import { run } from './run.js';

/** Where cloud-init finds it in a machine (`xnjs/vm/context/agent-script.ts`). */
const label = 'VSITE';
const spareBytes = 4 * 1024 * 1024;
const mebibyte = 1024 * 1024;

/**
 * What starts the agent in a guest of which nothing is known but that it has a shell: Node and the libraries of
 * the host that made this disk. Where Node does not run by the guest's own, it is started by ours.
 */
const start = `#!/bin/sh
here=\${0%/*}
properties=\${1:-/etc/vsite/tsi.properties}
if "$here/node" --version >/dev/null 2>&1; then
  exec "$here/node" "$here/agent.cjs" "$properties"
fi
exec "$here/lib/LOADER" --library-path "$here/lib" "$here/node" "$here/agent.cjs" "$properties"
`;

/**
 * A read-only disk for machines whose image holds no TSI: our agent, Node, and the libraries that it needs. It
 * holds nothing secret, and one serves all machines of a host.
 * @param target written whole or not at all
 */
export async function makeAgentDisk(target: string): Promise<void> {
  const directory = dirname(resolve(target));
  await mkdir(directory, { recursive: true });
  const work = await mkdtemp(join(directory, '.agent-disk-'));
  try {
    const files = await collect(work);
    const draft = join(work, 'disk');
    const sizes = await Promise.all(files.map(async (path) => (await stat(path)).size));
    const bytes = sizes.reduce((sum, size) => sum + size, spareBytes);
    await writeFile(draft, '');
    await truncate(draft, Math.ceil(bytes / mebibyte) * mebibyte);
    await run('mkfs.fat', ['-n', label, draft]);
    await run('mmd', ['-i', draft, '::/lib']);
    const below = (folder: string): string[] => files.filter((path) => dirname(path) === folder);
    await run('mcopy', ['-i', draft, ...below(work), '::/']);
    await run('mcopy', ['-i', draft, ...below(join(work, 'lib')), '::/lib/']);
    await rename(draft, target);
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

/** @returns paths of the files of the disk */
async function collect(work: string): Promise<string[]> {
  await mkdir(join(work, 'lib'));
  const libraries = [...(await findPrograms([], { node: true })).values()].filter(
    (path) => path !== process.execPath,
  );
  const files = libraries.map((path) => join(work, 'lib', basename(path)));
  for (const [at, file] of files.entries()) await copyFile(libraries[at] ?? '', file);
  const loader = libraries.find((path) => basename(path).startsWith('ld-linux'));
  const [node, agent, script] = [join(work, 'node'), join(work, 'agent.cjs'), join(work, 'start')];
  await run('strip', ['-o', node, process.execPath]);
  await writeFile(agent, await bundleAgent());
  await writeFile(script, start.replace('LOADER', basename(loader ?? '')));
  return [...files, node, agent, script];
}
