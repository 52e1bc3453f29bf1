import { stat } from 'node:fs/promises';
import { dirname } from 'node:path';

/** @returns the path, or what it will be made in: the first start makes directories */
export async function nearest(path: string): Promise<string> {
  return (await exists(path)) ? path : await nearest(dirname(path));
}

/** @throws what keeps us from knowing */
export async function exists(path: string): Promise<boolean> {
  try {
    await stat(path);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    return false;
  }
}
