import { Readable } from 'node:stream';
import { asGridError, errorText } from '#kernel/errors.js';
import type { FileSpace } from '../files/file-space.js';
import { parentOf } from '../files/path.js';
import { StagingError } from './errors.js';
import type { Landing } from './landing.js';
import { partName } from './on-target.js';
import type { ImportTransfer } from './transfer.js';

/** In a storage whose files lie on this server, where no script runs. */
export function landOnServer({ id, entry, site, signal }: ImportTransfer, to: string): Landing {
  const { files } = site;
  if (entry.mode === 'append')
    throw new StagingError('BAD_REQUEST', 'transfers to storages on the server cannot append');
  const part = `/${partName(id)}`;
  return {
    size: () => sizeOf(files, to),
    partSize: () => sizeOf(files, part),
    readPart: (length) => files.read(part, { length }, { signal }),
    writePart: (bytes, append) =>
      unlessFull(async () => {
        // a part that is replaced is there only when it is whole: nothing to go on from after a crash
        if (!append) await files.write(part, Readable.from([]));
        return await files.write(part, bytes, { append: true, signal });
      }),
    removePart: () => files.remove(part),
    place: (permissions) =>
      unlessFull(async () => {
        if (permissions !== undefined)
          await files.chmod(part, permissions.replace(/[st]/g, 'x').replace(/[ST]/g, '-'));
        await files.mkdir(parentOf(to));
        await files.rename(part, to);
      }),
  };
}

/** Waiting makes no room in a storage: what is begun is given up. */
async function unlessFull<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (asGridError(error)?.code !== 'STORAGE_FULL') throw error;
    throw new StagingError('PEER_FAILED', errorText(error), {}, { cause: error });
  }
}

async function sizeOf(files: FileSpace, path: string): Promise<number | undefined> {
  try {
    return (await files.stat(path)).sizeBytes;
  } catch (error) {
    if (asGridError(error)?.code === 'NOT_FOUND') return undefined;
    throw error;
  }
}
