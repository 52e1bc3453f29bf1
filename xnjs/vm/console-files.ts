import { constants } from 'node:fs';
import { lstat, open, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

/** QEMU, or virtlogd, appends what the guest writes. */
const name = 'console.log';
/** What went before it, as virtlogd calls it where that is between. */
const formerName = `${name}.0`;

/** A guest writes for as long as it runs. */
export const longestConsoleBytes = 8 * 1_048_576;
/** Of what is cut off. */
const keptBytes = 262_144;

export function consolePath(directory: string): string {
  return join(directory, name);
}

/**
 * Cuts off what is too long; its end stays to be read. Whoever writes it goes on at its new end: it is open to be
 * appended to.
 * @param directory of a machine; one without a console is fine
 * @returns whether it was too long
 */
export async function boundConsole(directory: string): Promise<boolean> {
  try {
    // most are short, of thousands: what follows costs three times as much
    if ((await lstat(consolePath(directory))).size <= longestConsoleBytes) return false;
    await using file = await open(consolePath(directory), constants.O_RDWR | constants.O_NOFOLLOW);
    const { size } = await file.stat();
    if (size <= longestConsoleBytes) return false;
    const former = join(directory, formerName);
    await writeFile(`${former}.new`, await endOf(file, size, keptBytes));
    await rename(`${former}.new`, former);
    await file.truncate(0);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false;
    throw error;
  }
}

/** The last of it, at most `bytes`; nothing where there is none. */
export async function consoleEnd(directory: string, bytes: number): Promise<Buffer> {
  const last = await readEnd(join(directory, name), bytes);
  if (last.length === bytes) return last;
  return Buffer.concat([await readEnd(join(directory, formerName), bytes - last.length), last]);
}

/** For people, who are spared control characters. */
export function consoleText(bytes: Buffer): string {
  return bytes
    .toString('latin1')
    .replace(/[^\x20-\x7e\n]+/g, '')
    .trim();
}

type OpenFile = Awaited<ReturnType<typeof open>>;

async function readEnd(path: string, bytes: number): Promise<Buffer> {
  try {
    await using file = await open(path);
    const { size } = await file.stat();
    return await endOf(file, size, bytes);
  } catch {
    return Buffer.alloc(0);
  }
}

async function endOf(file: OpenFile, size: number, bytes: number): Promise<Buffer> {
  const start = Math.max(0, size - bytes);
  const { buffer, bytesRead } = await file.read(Buffer.alloc(size - start), 0, size - start, start);
  return buffer.subarray(0, bytesRead);
}
