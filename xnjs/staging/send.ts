import { Transform, pipeline, type Readable } from 'node:stream';
import type { FileInfo } from '../files/file-space.js';
import { normalisePath } from '../files/path.js';
import { StagingError } from './errors.js';
import { digestOf } from './digest.js';
import { below, expand } from './expand.js';
import { namesOf, treeOf } from './space-tree.js';
import type { ExportTransfer } from './transfer.js';

/** A file of the job's directory that goes out. */
export type LocalFile = {
  /** From the job's directory, begins with `/`. */
  readonly path: string;
  /** Below the target: empty for the target itself. */
  readonly below: string;
  readonly sizeBytes: number;
  readonly modifiedMs: number;
  readonly permissions: string;
  /** All of it, or from an offset on; moves the progress. */
  read(offset?: number, length?: number): Readable;
};

/** Where files go. */
export type Sink = {
  exists(file: LocalFile): Promise<boolean>;
  /**
   * All of the file or nothing where the protocol can do that; done again, it ends the same.
   * @param isNew what appears there meanwhile is someone else's
   */
  put(file: LocalFile, isNew: boolean): Promise<void>;
};

const bufferedBytes = 1024 * 1024;

/**
 * The files that `From` stands for: one, those of a directory, or those that a pattern matches.
 * @throws {@link StagingError} `NOT_FOUND` there is none; `BAD_REQUEST` there are too many
 */
export async function localFiles(transfer: ExportTransfer): Promise<LocalFile[]> {
  const { site, entry } = transfer;
  const found = await expand(treeOf(site.files), namesOf(normalisePath(entry.from)));
  if ('one' in found) return [toLocal(transfer, found.one, '')];
  return found.entries
    .filter(({ isDirectory }) => !isDirectory)
    .map((file) => toLocal(transfer, file, below(found.base, file)));
}

/** @throws {@link StagingError} this protocol takes single files only */
export function only(files: readonly LocalFile[], from: string): LocalFile {
  const [file] = files;
  if (file?.below === '') return file;
  throw new StagingError('BAD_REQUEST', `${from} is no single file, which this protocol needs`);
}

/** Sends files one after the other; those that a former try has sent are left out. */
export async function sendAll(
  transfer: ExportTransfer,
  files: readonly LocalFile[],
  sink: Sink,
): Promise<void> {
  const { entry, progress, clock } = transfer;
  const done = progress.record.lastDone;
  const keeps = entry.mode === 'nooverwrite';
  for (const file of [...files].sort((a, b) => (a.path < b.path ? -1 : 1))) {
    if (done !== undefined && file.path <= done) continue;
    const isNew = keeps && progress.of(file.path)?.created !== true;
    if (isNew) {
      if (await sink.exists(file)) throw existsAlready();
      await progress.note(file.path, { created: true });
    }
    await verifyDigest(transfer, file);
    progress.began({ file: file.path, offset: 0, totalBytes: file.sizeBytes });
    await sink.put(file, isNew);
    await progress.complete(file.path, file.sizeBytes, keeps, clock.now());
  }
}

export function existsAlready(): StagingError {
  return new StagingError(
    'CONFLICT',
    'there is such a file already, and it is not to be overwritten',
  );
}

/** Before anything is sent. */
async function verifyDigest({ entry }: ExportTransfer, file: LocalFile): Promise<void> {
  const digest = digestOf(entry.parameters['checksum']);
  if (!digest) return;
  for await (const chunk of file.read() as AsyncIterable<Buffer>) digest.update(chunk);
  digest.verify();
}

function toLocal(
  { site, signal, progress }: ExportTransfer,
  { path, sizeBytes, modifiedMs, permissions }: FileInfo,
  belowTarget: string,
): LocalFile {
  return {
    path: `/${path}`,
    below: belowTarget,
    sizeBytes,
    modifiedMs,
    permissions,
    read(offset = 0, length = sizeBytes - offset) {
      const meter = new Transform({
        readableHighWaterMark: bufferedBytes,
        transform(chunk: Buffer, _encoding, done) {
          progress.move(chunk.length);
          done(null, chunk);
        },
      });
      return pipeline(
        site.files.read(`/${path}`, { offset, length }, { signal }),
        meter,
        () => undefined,
      );
    },
  };
}
