import type { CompletedPart, S3Client } from '@aws-sdk/client-s3';
import { PassingError, StagingError } from './errors.js';
import type { S3Url } from './s3-client.js';
import type { LocalFile } from './send.js';
import type { ExportTransfer } from './transfer.js';

const MiB = 1024 * 1024;
/** Parts are kept in memory while they are sent, and there are at most 10,000 of them. */
const partBytes = 8 * MiB;
const largestPartBytes = 16 * MiB;
const maxParts = 10_000;

/** The object appears when all of it is there. A broken upload goes on after the last part that S3 has. */
export async function uploadToS3(
  transfer: ExportTransfer,
  client: S3Client,
  { bucket, key }: S3Url,
  file: LocalFile,
  isNew: boolean,
): Promise<void> {
  const object = { Bucket: bucket, Key: key };
  const onlyNew = isNew && { IfNoneMatch: '*' };
  const { signal: abortSignal } = transfer;
  if (file.sizeBytes <= partBytes) {
    const { PutObjectCommand } = await import('@aws-sdk/client-s3');
    const body = await readPart(file, 0, file.sizeBytes);
    await client.send(new PutObjectCommand({ ...object, ...onlyNew, Body: body }), { abortSignal });
    return;
  }
  const size = file.sizeBytes > partBytes * maxParts ? largestPartBytes : partBytes;
  if (file.sizeBytes > size * maxParts)
    throw new StagingError(
      'BAD_REQUEST',
      `files of more than ${size * maxParts} bytes are not sent to S3`,
    );
  const { CompleteMultipartUploadCommand, UploadPartCommand } = await import('@aws-sdk/client-s3');
  const { uploadId, parts } = await begin(transfer, client, object, file, size);
  const upload = { ...object, UploadId: uploadId };
  for (let offset = parts.length * size; offset < file.sizeBytes; offset += size) {
    const body = await readPart(file, offset, Math.min(size, file.sizeBytes - offset));
    const PartNumber = parts.length + 1;
    const sent = await client.send(new UploadPartCommand({ ...upload, PartNumber, Body: body }), {
      abortSignal,
    });
    parts.push({ PartNumber, ETag: sent.ETag, ...checksumOf(sent) });
  }
  const MultipartUpload = { Parts: parts };
  await client.send(
    new CompleteMultipartUploadCommand({ ...upload, ...onlyNew, MultipartUpload }),
    {
      abortSignal,
    },
  );
}

type Upload = { readonly uploadId: string; readonly parts: CompletedPart[] };

/** Finds the upload that a former try has begun with this very file, or begins one. */
async function begin(
  { progress, signal: abortSignal }: ExportTransfer,
  client: S3Client,
  object: { readonly Bucket: string; readonly Key: string },
  file: LocalFile,
  size: number,
): Promise<Upload> {
  const validator = `${file.sizeBytes} ${file.modifiedMs}`;
  const before = progress.of(file.path);
  if (before?.uploadId !== undefined) {
    const { uploadId } = before;
    if (before.validator === validator) {
      const parts = await partsOf(client, { ...object, UploadId: uploadId }, size, abortSignal);
      if (parts) return { uploadId, parts };
    } else {
      const { AbortMultipartUploadCommand } = await import('@aws-sdk/client-s3');
      const abort = new AbortMultipartUploadCommand({ ...object, UploadId: uploadId });
      await client.send(abort, { abortSignal }).catch(() => undefined); // it may have gone already
    }
  }
  const { CreateMultipartUploadCommand } = await import('@aws-sdk/client-s3');
  const { UploadId: uploadId } = await client.send(new CreateMultipartUploadCommand(object), {
    abortSignal,
  });
  if (uploadId === undefined) throw new StagingError('PEER_FAILED', 'S3 begins no upload');
  await progress.note(file.path, { uploadId, validator });
  return { uploadId, parts: [] };
}

/** The first parts that S3 has whole; `undefined`: it does not know the upload any more. */
async function partsOf(
  client: S3Client,
  upload: { readonly Bucket: string; readonly Key: string; readonly UploadId: string },
  size: number,
  abortSignal: AbortSignal,
): Promise<CompletedPart[] | undefined> {
  const { ListPartsCommand, NoSuchUpload } = await import('@aws-sdk/client-s3');
  const parts: CompletedPart[] = [];
  let marker: string | undefined;
  try {
    do {
      const list = new ListPartsCommand({ ...upload, PartNumberMarker: marker });
      const page = await client.send(list, { abortSignal });
      for (const part of page.Parts ?? []) {
        if (part.PartNumber !== parts.length + 1 || part.Size !== size) return parts;
        parts.push({ PartNumber: part.PartNumber, ETag: part.ETag, ...checksumOf(part) });
      }
      marker = page.IsTruncated === true ? page.NextPartNumberMarker : undefined;
    } while (marker !== undefined);
    return parts;
  } catch (error) {
    if (error instanceof NoSuchUpload || (error as Error).name === 'NoSuchUpload') return undefined;
    throw error;
  }
}

function checksumOf({ ChecksumCRC32 }: CompletedPart): Pick<CompletedPart, 'ChecksumCRC32'> {
  return ChecksumCRC32 === undefined ? {} : { ChecksumCRC32 };
}

async function readPart(file: LocalFile, offset: number, length: number): Promise<Buffer> {
  const part = Buffer.allocUnsafe(length);
  let filled = 0;
  for await (const chunk of file.read(offset, length) as AsyncIterable<Buffer>)
    filled += chunk.copy(part, filled);
  if (filled === length) return part;
  throw new PassingError(`${file.path} has become shorter while it was sent`);
}
