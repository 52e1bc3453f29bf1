import { cpSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { buildImage, type BuiltImage } from '#cli/image/build.js';
import { defaultCacheDirectory } from '#cli/quickstart/layout.js';
import { projectRoot } from '#kernel/project-root.js';
import { silentLog } from '#kernel/log.js';

/** The demo image, with a shell of root's at a port of its loopback: an owner may bring any image. */
export async function buildSpeaker(directory: string): Promise<BuiltImage> {
  const [source, images] = [join(projectRoot, 'config', 'images'), join(directory, 'images')];
  for (const part of ['common', 'demo-vm'])
    cpSync(join(source, part), join(images, part), { recursive: true });
  // a name of its own in the cache
  const recipe = join(images, 'speaker');
  renameSync(join(images, 'demo-vm'), recipe);
  const init = join(recipe, 'root', 'init');
  const shell = 'nc -ll -p 9 -e /bin/sh &';
  const written = readFileSync(init, 'utf8');
  writeFileSync(
    init,
    written.replace('\n/usr/lib/vsite/agent', `\n${shell}\n/usr/lib/vsite/agent`),
  );
  const cacheDir = join(defaultCacheDirectory(), 'images');
  return await buildImage(recipe, { cacheDir, log: silentLog });
}
