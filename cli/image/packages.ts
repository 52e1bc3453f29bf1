import { createHash } from 'node:crypto';
import {
  lstat,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  readlink,
  rename,
  rm,
  writeFile,
} from 'node:fs/promises';
import { join, relative } from 'node:path';
import { withApt } from './apt.js';
import type { Entry } from './archive.js';
import { ignoreExisting } from './kernel-package.js';
import { ImageBuildError, run } from './run.js';

/** `name=version`, sorted. */
export type Packages = readonly string[];

/** What an image does not need to run what is in it: the tools that would install packages there. */
const leftOut = ['debconf', 'dpkg', 'init-system-helpers', 'media-types', 'usr-is-merged'];
/** Nothing that a job reads. */
const unread = /^\/usr\/share\/(bash-completion|bug|doc|info|lintian|locale|man)\//;

/** The named Debian packages with all that they depend on, as apt offers them at present. */
export async function findPackages(names: readonly string[], cacheDir: string): Promise<Packages> {
  if (names.length === 0) return [];
  const status = join(cacheDir, 'apt-status');
  await writeFile(
    status,
    leftOut
      .map((name) => `Package: ${name}\nStatus: install ok installed\nVersion: 9999\n`)
      .map((text) => `${text}Architecture: all\nMaintainer: nobody\nDescription: left out\n\n`)
      .join(''),
  );
  const wanted = ['--no-install-recommends', '--simulate', 'install', ...names];
  const planned = await withApt(cacheDir, (apt) =>
    run('apt-get', [...apt, '-o', `Dir::State::status=${status}`, ...wanted]),
  );
  const found = [...planned.matchAll(/^Inst (\S+) \((\S+) /gm)];
  if (found.length === 0)
    throw new ImageBuildError('packages', new Error(`apt finds nothing for ${names.join(', ')}`));
  return found.map(([, name = '', version = '']) => `${name}=${version}`).sort();
}

/**
 * Downloads and unpacks packages, once for each set of them. Their own scripts are not run.
 * @returns absolute path in the image to entry
 */
export async function getPackages(
  packages: Packages,
  cacheDir: string,
): Promise<ReadonlyMap<string, Entry>> {
  if (packages.length === 0) return new Map();
  const key = createHash('sha256').update(packages.join('\n')).digest('hex').slice(0, 16);
  const folder = join(cacheDir, 'packages', key);
  await unpack(packages, folder, cacheDir);
  return await readTree(folder);
}

async function unpack(packages: Packages, folder: string, cacheDir: string): Promise<void> {
  if (await lstat(folder).then(Boolean, () => false)) return;
  await mkdir(join(cacheDir, 'packages'), { recursive: true });
  const work = await mkdtemp(join(cacheDir, 'packages', '.work-'));
  try {
    const [debs, root] = [join(work, 'debs'), join(work, 'root')];
    await mkdir(debs);
    await withApt(cacheDir, (apt) =>
      run('apt-get', [...apt, 'download', ...packages], { cwd: debs }),
    );
    for (const deb of await readdir(debs)) await run('dpkg-deb', ['-x', join(debs, deb), root]);
    await rename(root, folder).catch(ignoreExisting);
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

async function readTree(root: string): Promise<Map<string, Entry>> {
  const tree = new Map<string, Entry>();
  for (const found of await readdir(root, { recursive: true, withFileTypes: true })) {
    const source = join(found.parentPath, found.name);
    const path = inUsr(`/${relative(root, source)}`);
    if (unread.test(path)) continue;
    if (found.isSymbolicLink())
      tree.set(path, { type: 'link', target: await readlink(source), mode: 0o777, owner: 0 });
    else if (found.isFile()) {
      const { mode } = await lstat(source);
      // nobody gets another's rights by a program of an image
      const permissions = mode & 0o111 ? 0o755 : 0o644;
      tree.set(path, {
        type: 'file',
        content: await readFile(source),
        mode: permissions,
        owner: 0,
      });
    }
  }
  return tree;
}

/** The image has `/bin`, `/lib` and so on as links into `/usr`, whatever a package has. */
export function inUsr(path: string): string {
  return /^\/(bin|sbin|lib|lib64)\//.test(path) ? `/usr${path}` : path;
}
