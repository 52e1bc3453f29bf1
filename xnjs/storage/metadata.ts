import { Readable } from 'node:stream';
import { text } from 'node:stream/consumers';
import { setImmediate } from 'node:timers/promises';
import { z } from 'zod';
import { describeIssues } from '#kernel/config.js';
import { GridError } from '#kernel/errors.js';
import type { CallOptions } from '../tsi/tsi.js';
import { metadataPath, scanLimits, type FileSpace } from '../files/file-space.js';
import { parseQuery } from './search.js';

export type Metadata = Readonly<Record<string, string>>;

const scalar = z.union([z.string().max(8_192), z.number(), z.boolean()]).transform(String);
const schema = z
  .record(z.string().min(1).max(256), scalar)
  .refine((all) => Object.keys(all).length <= 500, 'must have at most 500 keys');

/** @throws `BAD_REQUEST` naming the key */
export function parseMetadata(value: unknown): Metadata {
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  throw new GridError('BAD_REQUEST', `metadata: ${describeIssues(parsed.error)}`);
}

/** Files that hold no metadata, or nonsense, have none. */
export async function readMetadata(files: FileSpace, path: string): Promise<Metadata> {
  const beside = metadataPath(path);
  if (beside === undefined) return {};
  try {
    const { isDirectory, sizeBytes } = await files.stat(beside);
    if (isDirectory || sizeBytes > scanLimits.fileBytes) return {};
  } catch (error) {
    if (error instanceof GridError && error.code === 'NOT_FOUND') return {};
    throw error;
  }
  return decode(await text(files.read(beside, { length: scanLimits.fileBytes })));
}

/** Replaces it; an empty one is removed. */
export async function writeMetadata(
  files: FileSpace,
  path: string,
  metadata: Metadata,
): Promise<void> {
  const { path: file } = await files.stat(path);
  const beside = metadataPath(file);
  if (beside === undefined)
    throw new GridError('BAD_REQUEST', 'metadata: the root and very long names have none');
  if (Object.keys(metadata).length === 0) await files.remove(beside);
  else await files.write(beside, Readable.from([Buffer.from(encode(metadata))]));
}

export async function removeWithMetadata(files: FileSpace, path: string): Promise<void> {
  await files.remove(path);
  const beside = metadataPath(path);
  if (beside !== undefined) await files.remove(beside);
}

/** The metadata goes along; a copy of none is none, so that it does not describe another file. */
export async function moveWithMetadata(
  files: FileSpace,
  how: 'rename' | 'copy',
  from: string,
  to: string,
): Promise<void> {
  await files[how](from, to);
  await moveMetadata(files, how, from, to);
}

/** After the file itself. */
export async function moveMetadata(
  files: FileSpace,
  how: 'rename' | 'copy',
  from: string,
  to: string,
): Promise<void> {
  const [old, beside] = [metadataPath(from), metadataPath(to)];
  try {
    if (old !== undefined && beside !== undefined) await files[how](old, beside);
  } catch (error) {
    if (!(error instanceof GridError && error.code === 'NOT_FOUND')) throw error;
    if (beside !== undefined) await files.remove(beside);
  }
}

/** The most files that one search names. */
const maxFound = 200;
const filesPerTurn = 1_000;

export type Found = { readonly paths: readonly string[]; readonly complete: boolean };

/** @throws `BAD_REQUEST` for a query that cannot be understood */
export async function searchFiles(
  files: FileSpace,
  query: string,
  options?: CallOptions,
): Promise<Found> {
  const matches = parseQuery(query);
  const { files: names, metadata, complete } = await files.scan(options);
  const paths: string[] = [];
  for (const [at, path] of names.entries()) {
    if (at % filesPerTurn === 0) await setImmediate(); // others have their turn
    const about = metadata.get(path);
    if (!matches({ path, metadata: about === undefined ? {} : decode(about) })) continue;
    if (paths.length === maxFound) return { paths, complete: false };
    paths.push(path);
  }
  return { paths, complete };
}

function encode(metadata: Metadata): string {
  const json = JSON.stringify(metadata);
  if (Buffer.byteLength(json) <= scanLimits.fileBytes) return json;
  throw new GridError('TOO_LARGE', `metadata: more than ${scanLimits.fileBytes} bytes`);
}

function decode(json: string): Metadata {
  try {
    return schema.parse(JSON.parse(json));
  } catch {
    return {};
  }
}
