import type { Duplex } from 'node:stream';

/**
 * Reads up to the first line break and leaves the rest in the stream, for whoever comes next.
 * @returns the line with its break; what came of it if it is longer than `maxBytes`
 */
export function firstLine(stream: Duplex, maxBytes: number): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    let seen = Buffer.alloc(0);
    const settle = (): void => {
      stream.off('readable', look).off('end', fail).off('close', fail);
    };
    function fail(): void {
      settle();
      reject(stream.errored ?? new Error('the connection was closed'));
    }
    function look(): void {
      const bytes = stream.read() as Buffer | null;
      if (!bytes) return;
      seen = Buffer.concat([seen, bytes]);
      const end = seen.indexOf('\n');
      if (end < 0 && seen.length < maxBytes) return;
      settle();
      const line = end < 0 ? seen : seen.subarray(0, end + 1);
      if (line.length < seen.length) stream.unshift(seen.subarray(line.length));
      resolve(line);
    }
    stream.on('readable', look).once('end', fail).once('close', fail);
  });
}
