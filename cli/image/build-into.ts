import { copyFile, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { stringify } from 'yaml';
import { buildImage, type BuildOptions } from './build.js';

/** Builds an image and leaves it in a folder, ready to be published. @returns the files there */
export async function buildImageInto(
  recipe: string,
  directory: string,
  options: BuildOptions,
): Promise<string[]> {
  const { metadata, parts } = await buildImage(recipe, options);
  await mkdir(directory, { recursive: true });
  const description = join(directory, 'metadata.yaml');
  await writeFile(description, stringify(metadata));
  const files = [description];
  for (const [name, source] of Object.entries(parts)) {
    const file = join(directory, name);
    await copyFile(source, file);
    files.push(file);
  }
  return files;
}
