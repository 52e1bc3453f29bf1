import { GridError } from '#kernel/errors.js';

const maxPathBytes = 4_096;

/**
 * The canonical form of a path below a root: begins with `/`, no `.`, `..`, empty parts or slash at the
 * end; the root itself is `/`.
 * @throws `BAD_REQUEST` for paths that would leave the root, and for what no line of a TSI can carry
 */
export function normalisePath(path: string): string {
  if (/[\0\r\n]/.test(path))
    throw new GridError('BAD_REQUEST', 'a path must not contain NUL or line breaks', { path });
  if (Buffer.byteLength(path) > maxPathBytes)
    throw new GridError('BAD_REQUEST', `a path must not be longer than ${maxPathBytes} bytes`);
  const parts: string[] = [];
  for (const part of path.replaceAll('\\', '/').split('/')) {
    if (part === '' || part === '.') continue;
    if (part !== '..') parts.push(part);
    else if (parts.pop() === undefined)
      throw new GridError('BAD_REQUEST', `the path "${path}" leads out of the storage`, { path });
  }
  return `/${parts.join('/')}`;
}

/** The directory that a canonical path is in. */
export function parentOf(path: string): string {
  return path.slice(0, Math.max(1, path.lastIndexOf('/')));
}
