import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import { asGridError, GridError } from '#kernel/errors.js';
import type { JsonAnswer } from '#kernel/http/client-answers.js';
import type { HttpClient } from '#kernel/http/client.js';

const pollMs = 50;
const pageSize = 200;

/** The path of what an answer says it has made. */
export function pathOf({ headers }: JsonAnswer): string {
  const { location } = headers;
  if (typeof location === 'string') return new URL(location).pathname;
  throw new GridError('PEER_FAILED', 'the server did not say where the new resource is');
}

export function idOf(address: string): string {
  return address.slice(address.lastIndexOf('/') + 1);
}

/** The paths of a list's entries, page by page. @param name of the array, the last segment of `path` */
export async function* listPaths(
  client: HttpClient,
  path: string,
  query: Record<string, string> = {},
): AsyncGenerator<string, void, undefined> {
  const name = path.slice(path.lastIndexOf('/') + 1);
  for (let offset = 0; ; offset += pageSize) {
    const page = new URLSearchParams({ ...query, offset: `${offset}`, num: `${pageSize}` });
    const { body } = await client.json('GET', `${path}?${page.toString()}`);
    const urls = z.object({ [name]: z.array(z.string()) }).parse(body)[name] ?? [];
    for (const url of urls) yield new URL(url).pathname;
    if (urls.length < pageSize) return;
  }
}

/** Reads a resource again and again until it is as wanted. */
export async function pollUntil<T>(
  read: () => Promise<T>,
  isWanted: (value: T) => boolean,
  signal: AbortSignal,
): Promise<T> {
  for (;;) {
    const value = await read();
    if (isWanted(value)) return value;
    await sleep(pollMs, undefined, { signal });
  }
}

/** Deletes a resource and waits until it is really gone. */
export async function deleteAndWait(
  client: HttpClient,
  path: string,
  signal: AbortSignal,
): Promise<void> {
  await client.json('DELETE', path);
  const exists = (): Promise<boolean> =>
    client.json('GET', path, undefined, { signal }).then(
      () => true,
      (error: unknown) => {
        if (asGridError(error)?.row.http === 404) return false;
        throw error;
      },
    );
  await pollUntil(exists, (there) => !there, signal);
}
