import type {
  GetObjectCommandOutput,
  ListObjectsV2CommandOutput,
  S3Client,
} from '@aws-sdk/client-s3';
import { Readable } from 'node:stream';
import { StagingError } from './errors.js';
import { maxEntries } from './expand.js';
import { receiveAll, receiveOne } from './receive-files.js';
import type { OpenSource, Resume, SourceFile } from './receive.js';
import { parseS3Url, withS3, type S3Url } from './s3-client.js';
import { uploadToS3 } from './s3-upload.js';
import { localFiles, sendAll, type LocalFile } from './send.js';
import { baseName, type ImportTransfer, type Protocol } from './transfer.js';
import { hasWildcard, matcher } from './wildcard.js';

/** Keys that are looked at for a pattern. */
const maxScanned = 100_000;

/** `s3://bucket/key`: objects, those below a prefix that ends in `/`, patterns. */
export const s3: Protocol = {
  async import(transfer) {
    const url = parseS3Url(transfer.entry.from, 'From');
    await withS3(transfer, async (client) => {
      if (!url.key.endsWith('/') && url.key !== '' && !hasWildcard(url.key)) {
        await receiveOne(transfer, url.key, toSource(transfer, client, url));
        return;
      }
      const { base, keys } = await expand(transfer, client, url);
      const sources = keys.map((key) => ({
        path: key.slice(base.length),
        isDirectory: false as const,
        file: toSource(transfer, client, { ...url, key }),
      }));
      await receiveAll(transfer, sources);
    });
  },
  async export(transfer) {
    const { entry } = transfer;
    if (entry.mode === 'append')
      throw new StagingError('BAD_REQUEST', 'S3 cannot append to objects');
    const url = parseS3Url(entry.to, 'To');
    const files = await localFiles(transfer);
    await withS3(transfer, async (client) => {
      await sendAll(transfer, files, {
        exists: (file) => exists(client, { ...url, key: keyOf(url, file) }, transfer.signal),
        put: (file, isNew) =>
          uploadToS3(transfer, client, { ...url, key: keyOf(url, file) }, file, isNew),
      });
    });
  },
};

function keyOf({ key }: S3Url, { below, path }: LocalFile): string {
  const isPrefix = key === '' || key.endsWith('/');
  if (below === '') return isPrefix ? `${key}${baseName(path)}` : key;
  return isPrefix ? `${key}${below}` : `${key}/${below}`;
}

function toSource(
  { signal }: ImportTransfer,
  client: S3Client,
  { bucket, key }: S3Url,
): SourceFile {
  return {
    async open(from) {
      const { GetObjectCommand } = await import('@aws-sdk/client-s3');
      const range = from && { Range: `bytes=${from.offset}-`, IfMatch: from.validator };
      const wanted = new GetObjectCommand({ Bucket: bucket, Key: key, ...range });
      try {
        return opened(await client.send(wanted, { abortSignal: signal }), from);
      } catch (error) {
        const status = statusOf(error);
        if (!from || (status !== 412 && status !== 416)) throw error;
        return await this.open(undefined); // it has changed
      }
    },
  };
}

function opened(answer: GetObjectCommandOutput, from: Resume | undefined): OpenSource {
  const { Body: body, ContentRange: range, ContentLength: length, ETag: validator } = answer;
  if (!(body instanceof Readable)) throw new StagingError('PEER_FAILED', 'S3 sends no content');
  const start = Number(/^bytes (\d+)-/.exec(range ?? '')?.[1] ?? 0);
  if (start !== 0 && start !== from?.offset) {
    body.destroy();
    throw new StagingError('PEER_FAILED', 'S3 sends another part of the object than was asked for');
  }
  return {
    offset: start,
    body,
    totalBytes: length === undefined ? undefined : start + length,
    validator,
  };
}

async function exists(
  client: S3Client,
  { bucket, key }: S3Url,
  signal: AbortSignal,
): Promise<boolean> {
  const { HeadObjectCommand } = await import('@aws-sdk/client-s3');
  try {
    await client.send(new HeadObjectCommand({ Bucket: bucket, Key: key }), { abortSignal: signal });
    return true;
  } catch (error) {
    if (statusOf(error) === 404) return false;
    throw error;
  }
}

/** Keys that a prefix or pattern stands for, and what they are below. */
async function expand(
  { signal }: ImportTransfer,
  client: S3Client,
  { bucket, key }: S3Url,
): Promise<{ base: string; keys: string[] }> {
  const { ListObjectsV2Command } = await import('@aws-sdk/client-s3');
  const names = key.split('/');
  const first = names.findIndex(hasWildcard);
  const base =
    first < 0
      ? key
      : names
          .slice(0, first)
          .map((name) => `${name}/`)
          .join('');
  const fits = first < 0 ? [] : names.slice(first).map((pattern) => matcher(pattern));
  const keys: string[] = [];
  let scanned = 0;
  let next: string | undefined;
  do {
    const page: ListObjectsV2CommandOutput = await client.send(
      new ListObjectsV2Command({ Bucket: bucket, Prefix: base, ContinuationToken: next }),
      { abortSignal: signal },
    );
    for (const { Key: found = '' } of page.Contents ?? []) {
      scanned += 1;
      const parts = found.slice(base.length).split('/');
      if (parts.at(-1) === '' || !fits.every((fit, at) => fit(parts[at] ?? ''))) continue;
      if (parts.some((part) => part === '..' || part === '.' || part === ''))
        throw new StagingError('PEER_FAILED', `the key ${found} can be no file name`);
      keys.push(found);
    }
    next = page.NextContinuationToken;
    if (keys.length > maxEntries || scanned > maxScanned)
      throw new StagingError('BAD_REQUEST', `From names more than ${maxEntries} objects`);
  } while (next !== undefined);
  if (keys.length === 0) throw new StagingError('NOT_FOUND', `no object matches ${key}`);
  return { base, keys };
}

function statusOf(error: unknown): number | undefined {
  const metadata = (error as { $metadata?: { httpStatusCode?: number } }).$metadata; // the SDK's mark
  return metadata?.httpStatusCode;
}
