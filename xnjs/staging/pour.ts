import { finished, pipeline, Transform, type Readable } from 'node:stream';
import { GridError } from '#kernel/errors.js';
import type { Digest } from './digest.js';
import { PassingError, reasonOf, StagingError } from './errors.js';
import type { OpenSource } from './receive.js';
import type { ImportTransfer } from './transfer.js';

/** Read ahead of who takes it. */
const bufferedBytes = 2 * 1024 * 1024;

/** @param write takes the bytes, and says how many it took. @returns size of the part */
export async function pour(
  { signal, progress }: ImportTransfer,
  { offset, body, totalBytes }: OpenSource,
  digest: Digest | undefined,
  write: (bytes: Readable) => Promise<number>,
): Promise<{ size: number }> {
  let cause: unknown;
  finished(body, { writable: false }, (error) => (cause = error ?? undefined));
  const meter = new Transform({
    readableHighWaterMark: bufferedBytes,
    transform(chunk: Buffer, _encoding, done) {
      progress.move(chunk.length);
      digest?.update(chunk);
      done(null, chunk);
    },
  });
  let size: number;
  try {
    size = offset + (await write(pipeline(body, meter, () => undefined)));
  } catch (error) {
    signal.throwIfAborted();
    if (error instanceof GridError || cause === undefined) throw error;
    throw new PassingError(`the connection broke: ${reasonOf(cause)}`, { cause });
  } finally {
    meter.destroy();
  }
  if (totalBytes === undefined || size === totalBytes) return { size };
  if (size < totalBytes) throw new PassingError(`${size} of ${totalBytes} bytes came`);
  throw new StagingError('PEER_FAILED', `${size} bytes came, announced were ${totalBytes}`);
}
