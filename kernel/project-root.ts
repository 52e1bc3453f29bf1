import { access, constants } from 'node:fs/promises';
import { dirname, join } from 'node:path';

/** The folder that holds package.json, from the sources as well as from `dist/`. */
export const projectRoot = await findRoot(import.meta.dirname);

async function findRoot(folder: string): Promise<string> {
  const found = await access(join(folder, 'package.json'), constants.R_OK).then(
    () => true,
    () => false,
  );
  return found || folder === dirname(folder) ? folder : findRoot(dirname(folder));
}
