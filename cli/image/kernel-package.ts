import { cp, mkdir, mkdtemp, readdir, readFile, rename, rm } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { createHash } from 'node:crypto';
import { withApt, type Apt } from './apt.js';
import { ImageBuildError, run } from './run.js';

/** A kernel package as apt offers it at present. */
export type KernelPackage = { name: string; version: string; apt: Apt };

/**
 * Finds the kernel that the meta package depends on. Needs no root: where the system's package
 * lists are missing or outdated, own ones are fetched below `cacheDir`.
 */
export async function findKernelPackage(metaPackage: string, cacheDir: string) {
  return withApt(cacheDir, (apt) => resolve(metaPackage, apt));
}

async function resolve(metaPackage: string, apt: Apt): Promise<KernelPackage> {
  const shown = await run('apt-cache', [...apt, 'show', '--no-all-versions', metaPackage]);
  const depends = /^Depends:.*?(linux-image-[\w.+-]+) \(= ([\w.+~:-]+)\)/m.exec(shown);
  if (!depends?.[1] || !depends[2])
    throw new ImageBuildError('kernel', new Error(`${metaPackage} names no kernel package`));
  return { name: depends[1], version: depends[2], apt };
}

/** An unpacked kernel: `vmlinuz`, and the named modules as `<name>.ko` without debug symbols. */
export type Kernel = { image: string; modules: Uint8Array[] };

/** Downloads and unpacks a kernel package, once for each version and list of modules. */
export async function getKernel(
  kernel: KernelPackage,
  modules: readonly string[],
  cacheDir: string,
): Promise<Kernel> {
  const wanted = createHash('sha256').update(modules.join('\n')).digest('hex').slice(0, 12);
  const folder = join(cacheDir, 'kernels', `${kernel.name}_${kernel.version}_${wanted}`);
  const files = modules.map((name) => join(folder, `${name}.ko`));
  const read = async () => ({
    image: join(folder, 'vmlinuz'),
    modules: await Promise.all(files.map((file) => readFile(file))),
  });
  try {
    return await read();
  } catch {
    await mkdir(join(cacheDir, 'kernels'), { recursive: true });
  }
  const work = await mkdtemp(join(cacheDir, 'kernels', '.work-'));
  try {
    await withApt(cacheDir, (apt) =>
      run('apt-get', [...apt, 'download', `${kernel.name}=${kernel.version}`], { cwd: work }),
    );
    const [deb = ''] = await readdir(work);
    const root = join(work, 'root');
    await run('dpkg-deb', ['-x', join(work, deb), root]);
    const ready = join(work, basename(folder));
    await mkdir(ready);
    await pick(root, ready, modules);
    await rename(ready, folder).catch(ignoreExisting);
  } finally {
    await rm(work, { recursive: true, force: true });
  }
  return read();
}

async function pick(root: string, ready: string, modules: readonly string[]): Promise<void> {
  const boot = await readdir(join(root, 'boot'));
  const image = boot.find((name) => name.startsWith('vmlinuz-'));
  if (!image) throw new ImageBuildError('kernel', new Error('the package holds no vmlinuz'));
  await cp(join(root, 'boot', image), join(ready, 'vmlinuz'));
  const tree = await readdir(root, { recursive: true });
  for (const module of modules) {
    // the module virtio_rng lies in virtio-rng.ko
    const pattern = new RegExp(`/${module.replaceAll('_', '[-_]')}\\.ko(\\.xz)?$`);
    const found = tree.find((path) => pattern.test(path));
    if (!found) throw new ImageBuildError('kernel', new Error(`it has no module ${module}`));
    const source = join(root, found);
    if (found.endsWith('.xz')) await run('xz', ['--decompress', source]);
    const plain = source.replace(/\.xz$/, '');
    await run('strip', ['--strip-debug', '-o', join(ready, `${module}.ko`), plain]);
  }
}

/** Somebody else has finished the same folder in the meantime: theirs is as good. */
export function ignoreExisting(error: NodeJS.ErrnoException): void {
  if (error.code !== 'ENOTEMPTY' && error.code !== 'EEXIST') throw error;
}
