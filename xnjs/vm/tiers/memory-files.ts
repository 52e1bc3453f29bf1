import { constants } from 'node:fs';
import { copyFile, mkdir, open, readdir, rm, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import type { Workspace } from '../workspace.js';
import type { MemoryFile } from './memory-file.js';
import type { Template } from './template.js';

type OfTemplate = Pick<Template, 'id' | 'parameters'>;

/**
 * Where saved memory and copies of it are: for machines that find them there, and for no others. A copy has the id of
 * the machine that it is for. Each step may be repeated.
 */
export type MemoryFiles = {
  /** Before it is saved. @returns its path on the host @throws `STORAGE_FULL` */
  begin(template: OfTemplate): Promise<string>;
  open(template: OfTemplate, copyId?: string): Promise<MemoryFile & AsyncDisposable>;
  /** Of all of it, anew. @throws `STORAGE_FULL` */
  copy(template: OfTemplate, copyId: string): Promise<void>;
  /** A copy's, on its host. */
  pathOf(template: OfTemplate, copyId: string): Promise<string>;
  drop(template: OfTemplate, copyId: string): Promise<void>;
  /** Ids of those that are there, complete or not. */
  copies(template: OfTemplate): Promise<string[]>;
};

const chunkBytes = 4 * 1024 * 1024;
const prefix = 'copy-';
const suffix = '.save';

/** In the directory of the template, which other hosts may share: `memory.save`, `copy-<id>.save`. */
export class OwnMemoryFiles implements MemoryFiles {
  readonly #workspace: Pick<Workspace, 'directoryOf'>;

  constructor(workspace: Pick<Workspace, 'directoryOf'>) {
    this.#workspace = workspace;
  }

  async begin(template: OfTemplate): Promise<string> {
    await mkdir(this.#workspace.directoryOf(template.id), { recursive: true });
    return this.#path(template);
  }

  async open(template: OfTemplate, copyId?: string): Promise<MemoryFile & AsyncDisposable> {
    const file = await open(this.#path(template, copyId), copyId === undefined ? 'r' : 'r+');
    return {
      chunks: () => chunksOf(file),
      read: async (at, length) => {
        const { buffer, bytesRead } = await file.read(Buffer.alloc(length), 0, length, at);
        return buffer.subarray(0, bytesRead);
      },
      write: async (at, bytes) => {
        await file.write(bytes, 0, bytes.length, at);
      },
      [Symbol.asyncDispose]: () => file.close(),
    };
  }

  async copy(template: OfTemplate, copyId: string): Promise<void> {
    await copyFile(this.#path(template), this.#path(template, copyId), constants.COPYFILE_FICLONE);
  }

  pathOf(template: OfTemplate, copyId: string): Promise<string> {
    return Promise.resolve(this.#path(template, copyId));
  }

  async drop(template: OfTemplate, copyId: string): Promise<void> {
    await rm(this.#path(template, copyId), { force: true });
  }

  async copies({ id }: OfTemplate): Promise<string[]> {
    const names = await readdir(this.#workspace.directoryOf(id)).catch(() => []);
    return names
      .filter((name) => name.startsWith(prefix) && name.endsWith(suffix))
      .map((name) => name.slice(prefix.length, -suffix.length));
  }

  #path({ id }: OfTemplate, copyId?: string): string {
    const name = copyId === undefined ? 'memory' : `${prefix}${copyId}`;
    return join(this.#workspace.directoryOf(id), `${name}${suffix}`);
  }
}

async function* chunksOf(file: FileHandle): AsyncGenerator<Buffer> {
  for (let at = 0; ;) {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(chunkBytes), 0, chunkBytes, at);
    if (bytesRead === 0) return;
    yield buffer.subarray(0, bytesRead);
    at += bytesRead;
  }
}
