import { cpSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { buildImage, type BuiltImage } from '#cli/image/build.js';
import { projectRoot } from '#kernel/project-root.js';
import { silentLog } from '#kernel/log.js';

/** The demo image, with a shell of root's at a port of its loopback: an owner may bring any image. */
export async function buildSpeaker(directory: string, cacheDir: string): Promise<BuiltImage> {
  cpSync(join(projectRoot, 'config', 'images'), join(directory, 'images'), { recursive: true });
  const recipe = join(directory, 'images', 'demo-vm');
  const init = join(recipe, 'root', 'init');
  const shell = 'nc -ll -p 9 -e /bin/sh &';
  const written = readFileSync(init, 'utf8');
  writeFileSync(
    init,
    written.replace('\n/usr/lib/vsite/agent', `\n${shell}\n/usr/lib/vsite/agent`),
  );
  return await buildImage(recipe, { cacheDir, log: silentLog });
}
