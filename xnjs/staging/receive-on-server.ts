import { Readable } from 'node:stream';
import { asGridError, errorText } from '#kernel/errors.js';
import type { FileSpace } from '../files/file-space.js';
import { parentOf } from '../files/path.js';
import { digestOf, type Digest } from './digest.js';
import { PassingError, StagingError } from './errors.js';
import { partName } from './on-target.js';
import { pour } from './pour.js';
import type { Resume, SourceFile } from './receive.js';
import type { ImportTransfer } from './transfer.js';

/**
 * What `receive` does, for files on this server: bytes are gathered in a part file, which grows from try
 * to try, and takes its place when it is complete.
 * @returns bytes that are now there; `undefined`: there was a file, which is to stay
 */
export async function receiveOnServer(
  transfer: ImportTransfer,
  to: string,
  file: SourceFile,
): Promise<number | undefined> {
  const { entry, site, progress } = transfer;
  const { files } = site;
  if (entry.mode === 'append')
    throw new StagingError('BAD_REQUEST', 'transfers to storages on the server cannot append');
  if (entry.mode === 'nooverwrite' && (await sizeOf(files, to)) !== undefined) return undefined;
  const part = `/${partName(transfer.id)}`;
  const source = await file.open(await resumable(transfer, to, part));
  source.body.on('error', () => undefined); // it is told by whoever reads
  try {
    progress.began({ file: to, ...source });
    if (source.validator !== progress.of(to)?.validator)
      await progress.note(to, { validator: source.validator });
    const digest = digestOf(entry.parameters['checksum']);
    if (source.offset === 0) await files.write(part, Readable.from([]));
    else if (digest) await digestPart(files, part, source.offset, digest);
    const { size } = await pour(transfer, source, digest, (bytes) =>
      files.write(part, bytes, { append: true, signal: transfer.signal }),
    );
    digest?.verify();
    if ((await sizeOf(files, part)) !== size)
      throw new PassingError('what was sent has not been stored');
    await moveIntoPlace(transfer, part, to, entry.permissions ?? file.permissions);
    return size;
  } catch (error) {
    if (transfer.signal.aborted) throw error;
    const isFull = asGridError(error)?.code === 'STORAGE_FULL';
    if (isFull || asGridError(error)?.row.retry !== true)
      await files.remove(part).catch(() => undefined);
    if (isFull) throw new StagingError('PEER_FAILED', errorText(error), {}, { cause: error });
    throw error;
  } finally {
    source.body.destroy();
  }
}

async function moveIntoPlace(
  { site: { files } }: ImportTransfer,
  part: string,
  to: string,
  permissions: string | undefined,
): Promise<void> {
  if (permissions !== undefined)
    await files.chmod(part, permissions.replace(/[st]/g, 'x').replace(/[ST]/g, '-'));
  await files.mkdir(parentOf(to));
  await files.rename(part, to);
}

async function sizeOf(files: FileSpace, path: string): Promise<number | undefined> {
  try {
    return (await files.stat(path)).sizeBytes;
  } catch (error) {
    if (asGridError(error)?.code === 'NOT_FOUND') return undefined;
    throw error;
  }
}

async function resumable(
  { progress, site }: ImportTransfer,
  to: string,
  part: string,
): Promise<Resume | undefined> {
  const validator = progress.of(to)?.validator;
  if (validator === undefined) return undefined;
  const offset = (await sizeOf(site.files, part)) ?? 0;
  return offset > 0 ? { offset, validator } : undefined;
}

async function digestPart(
  files: FileSpace,
  part: string,
  length: number,
  digest: Digest,
): Promise<void> {
  for await (const chunk of files.read(part, { length }) as AsyncIterable<Buffer>)
    digest.update(chunk);
}
