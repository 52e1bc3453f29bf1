import { randomUUID } from 'node:crypto';
import { constants } from 'node:fs';
import {
  chmod,
  lstat,
  mkdir,
  open,
  readdir,
  rename,
  rmdir,
  unlink,
  type FileHandle,
} from 'node:fs/promises';
import { codeOf, O_PATH, openDirectory, within } from './beneath.js';

const { O_DIRECTORY, O_NOFOLLOW } = constants;
/** Uploads under way and what is being removed. On the same file system, out of everybody's sight. */
const workName = '.vsite-work';

/**
 * A directory of this host that holds one directory for each user or storage. Files come in and trees go
 * by one `rename` from or to a work directory, so nobody sees halves, and a crash leaves its rests there.
 */
export class HostDirectory {
  readonly base: string;

  /** @param base absolute, the operator's */
  constructor(base: string) {
    this.base = base;
  }

  /** Makes what is missing and removes what a crash has left. One server uses a directory at a time. */
  async prepare(): Promise<void> {
    await mkdir(this.base, { recursive: true, mode: 0o700 });
    await using work = await this.work();
    const left = await readdir(within(work, '.'));
    await this.#clear(work, left, () => undefined);
  }

  /** One of the directories in it, made if it is missing. The caller closes it. */
  async root(name: string): Promise<FileHandle> {
    await using base = await open(this.base, O_DIRECTORY);
    const path = within(base, name);
    try {
      return await openDirectory(path);
    } catch (error) {
      if (codeOf(error) !== 'ENOENT') throw error;
      await mkdir(path, { mode: 0o700 }).catch((failure: unknown) => {
        if (codeOf(failure) !== 'EEXIST') throw failure;
      });
      return await openDirectory(path);
    }
  }

  async work(): Promise<FileHandle> {
    return await this.root(workName);
  }

  /** Removes a file or a tree; what is not there is fine. @param freed told the size of each file */
  async remove(path: string, freed: (bytes: number) => void): Promise<void> {
    await using work = await this.work();
    const name = randomUUID();
    try {
      await moveAway(path, within(work, name));
    } catch (error) {
      if (codeOf(error) === 'ENOENT') return;
      throw error;
    }
    await this.#clear(work, [name], freed);
  }

  /** Removes one of the directories in it. */
  async removeRoot(name: string): Promise<void> {
    await using base = await open(this.base, O_DIRECTORY);
    await this.remove(within(base, name), () => undefined);
  }

  /**
   * Each directory is moved to the top before it is emptied: however deep a tree is, and whatever
   * somebody who still has it open does to it, only entries of opened directories are touched.
   */
  async #clear(
    work: FileHandle,
    names: readonly string[],
    freed: (bytes: number) => void,
  ): Promise<void> {
    const pending = [...names];
    for (let name = pending.pop(); name !== undefined; name = pending.pop()) {
      const path = within(work, name);
      const { size, isDirectory } = await kindOf(path);
      if (isDirectory) {
        await makeOurs(path);
        pending.push(...(await this.#empty(work, path, freed)));
        await rmdir(path);
      } else {
        await unlink(path);
        freed(size);
      }
    }
  }

  async #empty(
    work: FileHandle,
    path: string,
    freed: (bytes: number) => void,
  ): Promise<readonly string[]> {
    const moved: string[] = [];
    await using directory = await openDirectory(path);
    const prefix = Buffer.from(within(directory, ''));
    for (const name of await readdir(within(directory, '.'), { encoding: 'buffer' })) {
      const entry = Buffer.concat([prefix, name]); // it may be no UTF-8
      const { size, isDirectory } = await kindOf(entry);
      if (isDirectory) {
        const above = randomUUID();
        await moveAway(entry, within(work, above));
        moved.push(above);
      } else {
        await unlink(entry);
        freed(size);
      }
    }
    return moved;
  }
}

async function kindOf(path: string | Buffer): Promise<{ size: number; isDirectory: boolean }> {
  const stat = await lstat(path);
  return { size: stat.isFile() ? stat.size : 0, isDirectory: stat.isDirectory() };
}

/** A directory that its owner may not write to cannot be moved elsewhere. */
async function moveAway(from: string | Buffer, to: string): Promise<void> {
  try {
    await rename(from, to);
  } catch (error) {
    if (codeOf(error) !== 'EACCES') throw error;
    await makeOurs(from);
    await rename(from, to);
  }
}

async function makeOurs(directory: string | Buffer): Promise<void> {
  await using handle = await open(directory, O_PATH | O_DIRECTORY | O_NOFOLLOW);
  await chmod(`/proc/self/fd/${handle.fd}`, 0o700);
}
