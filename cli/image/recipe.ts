import { readdir, readFile } from 'node:fs/promises';
import { join, relative } from 'node:path';
import { z } from 'zod';
import { ImageMetadata } from '#imagerepo/contract.js';
import { loadConfig } from '#kernel/config.js';
import type { Entry } from './archive.js';

const path = z.string().regex(/^\/[\w./-]+$/, 'must be an absolute path');
const moduleName = z.string().regex(/^\w+$/);

/** `recipe.yaml`: what the builder puts together beside busybox. */
export const Recipe = z.strictObject({
  /** A kernel from Debian, and the modules it loads, in order. Without it: a container. */
  kernel: z.strictObject({ package: z.string(), modules: z.array(moduleName) }).optional(),
  /** Node and our agent; not for an image with another TSI. */
  agent: z.boolean().default(true),
  /** Programs of the host, by name */
  programs: z.array(z.string().regex(/^[\w.+-]+$/)),
  /** Debian packages, unpacked with all that they depend on; their own scripts are not run. */
  packages: z.array(z.string().regex(/^[a-z\d][a-z\d.+-]+$/)).default([]),
  /** Folders whose files are laid over the image, relative to the recipe; later ones win */
  roots: z.array(z.string()).min(1),
  directories: z.record(
    path,
    z.strictObject({
      mode: z.string().regex(/^[0-7]{4}$/),
      owner: z.int().min(0).default(0),
    }),
  ),
});
export type Recipe = z.output<typeof Recipe>;

export type LoadedRecipe = {
  recipe: Recipe;
  /** As written in `metadata.yaml`, save the name and version of the operating system: the host's */
  metadata: ImageMetadata;
  /** The files of all `roots`, and `/etc/os-release` */
  files: ReadonlyMap<string, Entry>;
};

/** @throws `CONFIG_INVALID`, naming file and field */
export async function loadRecipe(folder: string): Promise<LoadedRecipe> {
  const recipe = await loadConfig(join(folder, 'recipe.yaml'), Recipe);
  const written = await loadConfig(join(folder, 'metadata.yaml'), ImageMetadata);
  const release = await readFile('/etc/os-release');
  const metadata = { ...written, os: { ...written.os, ...systemOf(release.toString()) } };
  const files = new Map<string, Entry>([['/etc/os-release', file(release)]]);
  for (const root of recipe.roots)
    for (const [name, entry] of await readRoot(join(folder, root))) files.set(name, entry);
  return { recipe, metadata, files };
}

async function readRoot(root: string): Promise<[string, Entry][]> {
  const entries = await readdir(root, { recursive: true, withFileTypes: true });
  return Promise.all(
    entries
      .filter((entry) => entry.isFile())
      .map(async (entry): Promise<[string, Entry]> => {
        const path = join(entry.parentPath, entry.name);
        return [`/${relative(root, path)}`, file(await readFile(path))];
      }),
  );
}

/** Executable by its first line: permissions differ with the umask of whoever checked this out. */
function file(content: Uint8Array): Entry {
  const script = content[0] === 0x23 && content[1] === 0x21;
  return { type: 'file', content, mode: script ? 0o755 : 0o644, owner: 0 };
}

/** The system that the programs in the image come from: the host's. */
function systemOf(release: string): Partial<ImageMetadata['os']> {
  const field = (key: string) => new RegExp(`^${key}="?([^"\\n]*)"?$`, 'm').exec(release)?.[1];
  const distribution = field('NAME')?.split(' ')[0];
  const version = field('VERSION_ID');
  return { ...(distribution && { distribution }), ...(version && { version }) };
}
