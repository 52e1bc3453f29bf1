import { createHash } from 'node:crypto';
import { spawn } from 'node:child_process';
import { createWriteStream } from 'node:fs';
import { chmod, link, mkdir, mkdtemp, readdir, readFile, rename, rm, stat } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { imageFormats, type ImageMetadata, type PartName } from '#imagerepo/contract.js';
import type { Log } from '#kernel/log.js';
import { projectRoot } from '#kernel/project-root.js';
import { bundleAgent } from './agent.js';
import { cpio, tar, type Entry, type Tree } from './archive.js';
import { findKernelPackage, getKernel, ignoreExisting, type Kernel } from './kernel-package.js';
import { findPackages, getPackages } from './packages.js';
import { findPrograms, type Programs } from './programs.js';
import { loadRecipe, type LoadedRecipe } from './recipe.js';
import { ImageBuildError, run } from './run.js';

export type BuildOptions = {
  /** Kept between builds; several builds at once may share it. */
  cacheDir: string;
  log: Log;
  /** Told what is being done, one short sentence each */
  progress?: (step: string) => void;
  /** Source of another agent than ours */
  agentEntry?: string;
};

export type BuiltImage = {
  metadata: ImageMetadata;
  /** Read-only files in the cache */
  parts: Partial<Record<PartName, string>>;
  /** Of all inputs: equal keys, equal bytes */
  key: string;
  /** Nothing had to be built */
  cached: boolean;
};

const dayMs = 24 * 3_600_000;

/** The demo machine: a kernel, and a small root with Node and the agent as its initial RAM disk. */
export async function buildDemoVm(
  options: BuildOptions,
): Promise<BuiltImage & { kernel: string; initrd: string }> {
  const image = await buildImage(recipeFolder('demo-vm'), options);
  return { ...image, kernel: part(image, 'kernel'), initrd: part(image, 'initrd') };
}

/** The demo container: the same root, without a kernel, as a tar archive. */
export async function buildDemoContainer(
  options: BuildOptions,
): Promise<BuiltImage & { rootfs: string }> {
  const image = await buildImage(recipeFolder('demo-container'), options);
  return { ...image, rootfs: part(image, 'rootfs') };
}

/**
 * Builds an image from its recipe, unless the cache has it already: same inputs, same bytes.
 * Needs no root. @throws {@link ImageBuildError} naming the step
 */
export async function buildImage(folder: string, options: BuildOptions): Promise<BuiltImage> {
  const { log, progress = () => undefined } = options;
  const cacheDir = resolve(options.cacheDir);
  const started = performance.now();
  await mkdir(cacheDir, { recursive: true });
  progress('reading the recipe');
  const loaded = await loadRecipe(folder);
  const { kernel: kernelRecipe, agent: withAgent } = loaded.recipe;
  const agent = withAgent ? await bundleAgent(options.agentEntry) : undefined;
  const programs = await findPrograms(['busybox', ...loaded.recipe.programs], { node: withAgent });
  const packages = await findPackages(loaded.recipe.packages, cacheDir);
  const kernelPackage = kernelRecipe && (await findKernelPackage(kernelRecipe.package, cacheDir));
  const version = `${kernelPackage?.name ?? ''} ${kernelPackage?.version ?? ''}`;
  const key = await hashInputs(loaded, agent, programs, [version, ...packages].join('\n'));
  const target = join(cacheDir, `${basename(folder)}-${key.slice(0, 16)}`);
  const names = imageFormats[loaded.metadata.format].parts;
  const parts = Object.fromEntries(names.map((name) => [name, join(target, name)]));
  const image = { metadata: loaded.metadata, parts, key };
  if (await isDirectory(target)) return { ...image, cached: true };

  const work = await mkdtemp(`${target}.`);
  try {
    let kernel: Kernel | undefined;
    if (kernelRecipe && kernelPackage) {
      progress(`unpacking ${kernelPackage.name} ${kernelPackage.version}`);
      kernel = await getKernel(kernelPackage, kernelRecipe.modules, cacheDir);
      await link(kernel.image, join(work, 'kernel'));
    }
    progress('collecting files');
    const unpacked = await getPackages(packages, cacheDir);
    const tree = await plant(loaded, { agent, programs, unpacked, kernel }, work);
    progress(kernel ? 'packing the initial RAM disk' : 'packing the root file system');
    if (kernel) await compress(cpio(tree), join(work, 'initrd'));
    else await pipeline(Readable.from(tar(tree)), createWriteStream(join(work, 'rootfs')));
    await chmod(work, 0o755); // the system's libvirtd runs guests as a user of their own
    await rename(work, target).catch(ignoreExisting);
  } finally {
    await rm(work, { recursive: true, force: true });
  }
  await dropOld(target);
  log.info({ ms: Math.round(performance.now() - started), target }, 'image built');
  return { ...image, cached: false };
}

/** Everything that decides about the bytes of the image, this builder's own code included. */
async function hashInputs(
  { recipe, files }: LoadedRecipe,
  agent: Uint8Array | undefined,
  programs: Programs,
  packages: string,
): Promise<string> {
  const hash = createHash('sha256');
  const add = (label: string, content: Uint8Array | string) => {
    hash.update(`${label} ${content.length}\n`).update(content);
  };
  add('recipe', JSON.stringify(recipe));
  add('packages', packages);
  add('agent', agent ?? '');
  for (const [path, entry] of [...files].sort(byName))
    if (entry.type === 'file') add(path, entry.content);
  for (const [path, file] of [...programs].sort(byName)) add(path, await readFile(file));
  const builder = join(projectRoot, 'cli', 'image'); // its sources, also where it runs compiled
  for (const name of (await readdir(builder)).sort())
    add(name, await readFile(join(builder, name)));
  return hash.digest('hex');
}

/** What the builder has gathered for the root of an image. */
type Parts = {
  readonly agent: Uint8Array | undefined;
  readonly programs: Programs;
  readonly unpacked: Tree;
  readonly kernel: Kernel | undefined;
};

/** Puts the root of the image together. @param work a folder for things in between */
async function plant(
  { recipe, files }: LoadedRecipe,
  { agent, programs, unpacked, kernel }: Parts,
  work: string,
): Promise<Tree> {
  const tree = new Map<string, Entry>();
  const put = (path: string, content: Uint8Array, mode: number) =>
    tree.set(path, { type: 'file', content, mode, owner: 0 });
  const link = (path: string, target: string) =>
    tree.set(path, { type: 'link', target, mode: 0o777, owner: 0 });

  for (const name of ['bin', 'sbin', 'lib', 'lib64']) link(`/${name}`, `usr/${name}`);
  const applets = await run('busybox', ['--list']);
  for (const applet of applets.split('\n').filter(Boolean)) link(`/usr/bin/${applet}`, 'busybox');
  for (const [path, file] of programs) put(path, await readFile(file), 0o755);
  for (const [path, entry] of unpacked) tree.set(path, entry);
  if (agent) {
    const node = join(work, 'node');
    await run('strip', ['-o', node, process.execPath]);
    put('/usr/bin/node', await readFile(node), 0o755);
    await rm(node);
    put('/usr/lib/vsite/agent.cjs', agent, 0o644);
  }
  const modules = recipe.kernel?.modules ?? [];
  modules.forEach((name, i) => {
    // numbered: the order in which the image loads them
    const file = `/usr/lib/modules/${String(i).padStart(2, '0')}-${name}.ko`;
    put(file, kernel?.modules[i] ?? Buffer.alloc(0), 0o644);
  });
  for (const [path, entry] of files) tree.set(path, entry);
  for (const [path, { mode, owner }] of Object.entries(recipe.directories))
    tree.set(path, { type: 'directory', mode: parseInt(mode, 8), owner });
  for (const path of [...tree.keys()])
    for (let above = dirname(path); above !== '/'; above = dirname(above))
      if (!tree.has(above)) tree.set(above, { type: 'directory', mode: 0o755, owner: 0 });
  return tree;
}

/** The legacy frame of lz4, the only one that the kernel reads. */
async function compress(source: Iterable<Uint8Array>, target: string): Promise<void> {
  const lz4 = spawn('lz4', ['-l', '-9', '-q', '-c'], { stdio: ['pipe', 'pipe', 'inherit'] });
  const ended = new Promise<void>((done, failed) => {
    lz4.once('error', failed);
    lz4.once('close', (code) =>
      code === 0 ? done() : failed(new Error(`lz4 ended with ${code ?? 'a signal'}`)),
    );
  });
  try {
    await Promise.all([
      pipeline(Readable.from(source), lz4.stdin),
      pipeline(lz4.stdout, createWriteStream(target)),
      ended,
    ]);
  } catch (cause) {
    throw new ImageBuildError('packing', cause);
  }
}

/** Removes what earlier inputs gave, unless it is of today: somebody may still be reading it. */
async function dropOld(current: string): Promise<void> {
  const [name = ''] = basename(current).split(/-[0-9a-f]{16}/);
  for (const other of await readdir(dirname(current))) {
    if (!other.startsWith(`${name}-`) || other === basename(current)) continue;
    const path = join(dirname(current), other);
    const { mtimeMs } = await stat(path);
    if (Date.now() - mtimeMs > dayMs) await rm(path, { recursive: true, force: true });
  }
}

function recipeFolder(name: string): string {
  return join(projectRoot, 'config', 'images', name);
}

function part(image: BuiltImage, name: PartName): string {
  const path = image.parts[name];
  if (path === undefined) throw new TypeError(`the image has no ${name}`);
  return path;
}

const byName = ([a]: readonly [string, unknown], [b]: readonly [string, unknown]) =>
  a < b ? -1 : a > b ? 1 : 0;

function isDirectory(path: string): Promise<boolean> {
  return stat(path).then(
    (found) => found.isDirectory(),
    () => false,
  );
}
