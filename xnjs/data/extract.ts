import { createHash } from 'node:crypto';
import { pipeline } from 'node:stream/promises';
import { lookup } from 'mime-types';
import { asGridError, GridError } from '#kernel/errors.js';
import type { FileInfo, FileSpace } from '../files/file-space.js';
import { normalisePath } from '../files/path.js';
import { readMetadata, writeMetadata, type Metadata } from '../storage/metadata.js';

/** So many files, directories and bytes are looked at by one extraction. */
const mostFiles = 10_000;
const mostDirectories = 10_000;
const mostBytes = 16 * 1024 ** 3;
const mostListed = 10_000;

export type Extracted = { readonly files: number; readonly complete: boolean };

/**
 * Notes of each file what it is (`Content-Type`), a check sum (`Content-MD5`) and where it lies
 * (`resourceName`), besides what is noted already. Done again, it ends the same.
 * @param depth how many directories deep; 0: a directory's own files
 * @throws `NOT_FOUND`
 */
export async function extractMetadata(
  files: FileSpace,
  path: string,
  depth: number,
  signal: AbortSignal,
): Promise<Extracted> {
  let [count, directories, bytes, complete] = [0, 0, 0, true];
  const visit = async (entry: FileInfo, left: number): Promise<void> => {
    signal.throwIfAborted();
    if (entry.isDirectory) {
      if (left < 0) return;
      complete &&= ++directories <= mostDirectories; // links may lead in circles
      if (!complete) return;
      const { entries, total } = await files.list(entry.path, { num: mostListed });
      complete &&= total <= mostListed;
      for (const each of entries) await visit(each, each.isDirectory ? left - 1 : left);
      return;
    }
    bytes += entry.sizeBytes;
    complete &&= count < mostFiles && bytes <= mostBytes;
    if (complete && (await extractOne(files, entry.path, signal))) count++;
  };
  await visit(await files.stat(normalisePath(path)), depth);
  return { files: count, complete };
}

/** @returns false: it is no file that can be read, or is gone */
async function extractOne(files: FileSpace, path: string, signal: AbortSignal): Promise<boolean> {
  try {
    const before = await readMetadata(files, path);
    const found = await about(files, path, signal);
    const type = before['Content-Type'] ?? found['Content-Type'];
    await writeMetadata(files, path, {
      ...before,
      ...found,
      ...(type && { 'Content-Type': type }),
    });
    return true;
  } catch (error) {
    signal.throwIfAborted();
    const { code, row } = asGridError(error) ?? {};
    if (code === undefined || row?.retry === true) throw error;
    return false;
  }
}

async function about(files: FileSpace, path: string, signal: AbortSignal): Promise<Metadata> {
  const hash = createHash('md5'); // the key's name says so
  await pipeline(files.read(path, {}, { signal }), async (source: AsyncIterable<Buffer>) => {
    for await (const chunk of source) hash.update(chunk);
  });
  return {
    resourceName: path,
    'Content-MD5': hash.digest('hex'),
    'Content-Type': lookup(path) || 'application/octet-stream',
  };
}

/** @throws `BAD_REQUEST` */
export function refuseDepth(depth: number): void {
  if (Number.isInteger(depth) && depth >= 0 && depth <= 100) return;
  throw new GridError('BAD_REQUEST', 'depth: must be a whole number from 0 to 100');
}
