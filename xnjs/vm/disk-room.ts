import { stat, statfs } from 'node:fs/promises';
import { GridError } from '#kernel/errors.js';
import { VmError } from './state.js';

const bytesPerMiB = 1024 ** 2;

/** On the file system of a directory of this host. @throws {@link VmError} `STORAGE_FULL` */
export async function requireRoom(
  directory: string,
  neededMiB: number,
  vmId: string,
): Promise<void> {
  const { bavail, bsize } = await statfs(directory);
  requireFree(Math.floor((bavail * bsize) / bytesPerMiB), neededMiB, vmId);
}

/** @throws {@link VmError} `STORAGE_FULL` */
export function requireFree(freeMiB: number, neededMiB: number, vmId: string): void {
  if (freeMiB >= neededMiB) return;
  const text = `no room for it on the disk of the host: ${neededMiB} MiB may be needed, ${freeMiB} MiB are free`;
  throw new VmError('STORAGE_FULL', text, { vmId });
}

/** Bytes on the disk; 0: there is no such file. @throws `HYPERVISOR_UNAVAILABLE` nobody can tell */
export async function takes(path: string): Promise<number> {
  try {
    const { blocks, size } = await stat(path);
    return Math.min(blocks * 512, size);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return 0;
    throw unreachable({ cause: error });
  }
}

/** Where the files of machines are may not be mounted. */
export function unreachable(options?: ErrorOptions): GridError {
  const text = 'the files of the machine cannot be reached';
  return new GridError('HYPERVISOR_UNAVAILABLE', text, {}, options);
}
