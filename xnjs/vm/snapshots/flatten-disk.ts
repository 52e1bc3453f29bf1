import { spawn } from 'node:child_process';
import { rm } from 'node:fs/promises';
import { createInterface } from 'node:readline';
import { GridError } from '#kernel/errors.js';
import type { Flattening } from './snapshot-files.js';

export const flattenMs = 3_600_000;
const tellMs = 2_000;

/**
 * Makes a file with all of a disk, and nothing that it is based on; what fails leaves none.
 * @throws `CONFLICT` it cannot be, and why
 */
export async function flattenDisk(
  from: string,
  to: string,
  { vmId, tell, signal }: Pick<Flattening, 'tell' | 'signal'> & { readonly vmId: string },
): Promise<void> {
  const until = AbortSignal.any([signal, AbortSignal.timeout(flattenMs)]);
  // a program that outlived the server that started it may still write to that one
  await rm(to, { force: true });
  const child = spawn('qemu-img', ['convert', '-p', '-f', 'qcow2', '-O', 'qcow2', from, to], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, LC_ALL: 'C' },
    signal: until,
  });
  let said = '';
  child.stderr.on('data', (chunk: Buffer) => (said = (said + chunk.toString()).slice(-500)));
  const exit = new Promise<number | null>((resolve, reject) => {
    child.once('error', reject).once('close', resolve);
  });
  exit.catch(() => undefined); // awaited below
  let toldMs = -Infinity;
  try {
    // lines of its progress end in carriage returns
    for await (const line of createInterface({ input: child.stdout })) {
      const percent = /([\d.]+)\/100%/.exec(line)?.[1];
      if (percent === undefined || performance.now() - toldMs < tellMs) continue;
      toldMs = performance.now();
      await tell(`the disk is being copied: ${Math.floor(Number(percent))} %`);
    }
    const code = await exit;
    if (code !== 0) throw conflict(vmId, `the disk cannot be copied: ${shown(said, code)}`);
  } catch (error) {
    child.kill();
    await exit.catch(() => undefined);
    await rm(to, { force: true });
    signal.throwIfAborted();
    throw until.aborted ? conflict(vmId, 'the disk could not be copied in time') : error;
  }
}

/** Paths of the host stay here. */
function shown(said: string, code: number | null): string {
  if (said.includes('No space left')) return 'no space left on the disk of the host';
  return `qemu-img ended with ${code ?? 'a signal'}`;
}

function conflict(vmId: string, text: string): GridError {
  return new GridError('CONFLICT', text, { vmId });
}
