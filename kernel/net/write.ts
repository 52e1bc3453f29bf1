import type { Writable } from 'node:stream';

/** Writes and waits until the stream has taken it: back-pressure for code that is not a pipeline. */
export function write(stream: Writable, chunk: Buffer | string): Promise<void> {
  return new Promise((resolve, reject) => {
    if (stream.destroyed || stream.writableEnded) {
      reject(stream.errored ?? new Error('the stream has been closed'));
      return;
    }
    // a stream that is destroyed forgets the callbacks of what it had not written
    const closed = (): void => reject(stream.errored ?? new Error('the stream has been closed'));
    stream.once('close', closed);
    stream.write(chunk, (error) => {
      stream.off('close', closed);
      if (error) reject(error);
      else resolve();
    });
  });
}
