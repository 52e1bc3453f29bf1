import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';

/** The newest kernel of a demo image in the cache, to boot it and see what works. */
export async function findKernel(cacheDirectory: string): Promise<string | undefined> {
  const images = join(cacheDirectory, 'images');
  const paths = (await readdir(images).catch(() => [])).map((name) => join(images, name, 'kernel'));
  const found = await Promise.all(
    paths.map((path) =>
      stat(path).then(
        (file) => ({ path, at: file.mtimeMs, isFile: file.isFile() }),
        () => undefined,
      ),
    ),
  );
  return found.filter((each) => each?.isFile).sort((a, b) => (b?.at ?? 0) - (a?.at ?? 0))[0]?.path;
}
