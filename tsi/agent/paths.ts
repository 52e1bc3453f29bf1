import { normalize } from 'node:path';

/** Whether a path is a directory or below it, by whole components; links are not looked at. */
export function isWithin(directory: string, path: string): boolean {
  const base = normalize(`${directory}/`);
  return normalize(`${path}/`).startsWith(base);
}
