import { createWriteStream } from 'node:fs';
import { mkdir, open, readdir, rename, rm, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { mappedName, type MappedMemory } from '../memory-backend.js';
import { exists, runTool } from '../whole-files.js';
import type { Workspace } from '../workspace.js';
import type { MemoryFile } from './memory-file.js';
import { withoutMemory, type PageSink } from './split-memory.js';
import type { Template } from './template.js';

type OfTemplate = Pick<Template, 'id' | 'parameters'>;

/** What is saved of a machine: libvirt's file, and the machine's memory, if that is in a file of its own. */
export type Part = 'save' | 'ram';
/** Which part of whose memory; without `copyId` the template's own. */
export type Which = { readonly copyId?: string; readonly part?: Part };

/**
 * Where saved memory and copies of it are: for machines that find them there, and for no others. A copy has the id of
 * the machine that it is for. Each step may be repeated.
 */
export type MemoryFiles = {
  /** Before it is saved. @returns its path on the host @throws `STORAGE_FULL` */
  begin(template: OfTemplate): Promise<string>;
  open(template: OfTemplate, which?: Which): Promise<MemoryFile & AsyncDisposable>;
  /** Of all of it, anew. @throws `STORAGE_FULL` */
  copy(template: OfTemplate, copyId: string): Promise<void>;
  /** A copy's, on its host. */
  pathOf(template: OfTemplate, copyId: string, part?: Part): Promise<string>;
  drop(template: OfTemplate, copyId: string): Promise<void>;
  /** Ids of those that are there, complete or not. */
  copies(template: OfTemplate): Promise<string[]>;
  /** Absent: machines there cannot map files. */
  readonly split?: SplitFiles;
};

/** Two files of what was one, which is only replaced by them when they have proved good. */
export type SplitFiles = {
  /** The template's machine can be restored from them. @throws what is saved is of another kind; no room */
  begin(template: OfTemplate): Promise<{ memory: string; mapped: MappedMemory }>;
  keep(template: OfTemplate): Promise<void>;
  drop(template: OfTemplate): Promise<void>;
};

const chunkBytes = 4 * 1024 * 1024;
const bytesPerMiB = 1024 ** 2;
const prefix = 'copy-';
const parts: readonly Part[] = ['save', 'ram'];
const suffixes = { save: '.save', ram: '.ram' } as const satisfies Record<Part, string>;
/** libvirt's file without the memory, until that has proved good. */
const draft = 'devices.save';

/** In the directory of the template, which other hosts may share: `memory.save`, `memory.ram`, `copy-<id>.…`. */
export class OwnMemoryFiles implements MemoryFiles {
  readonly #workspace: Pick<Workspace, 'directoryOf'>;
  readonly split: SplitFiles;

  constructor(workspace: Pick<Workspace, 'directoryOf'>) {
    this.#workspace = workspace;
    this.split = {
      begin: (template) => this.#split(template),
      keep: (template) => rename(this.#file(template, draft), this.#path(template)),
      drop: async (template) => {
        for (const path of [this.#file(template, draft), this.#path(template, { part: 'ram' })])
          await rm(path, { force: true });
      },
    };
  }

  async begin(template: OfTemplate): Promise<string> {
    await mkdir(this.#workspace.directoryOf(template.id), { recursive: true });
    return this.#path(template);
  }

  async open(template: OfTemplate, which: Which = {}): Promise<MemoryFile & AsyncDisposable> {
    const mode = which.copyId === undefined ? 'r' : 'r+';
    const file = await open(this.#path(template, which), mode);
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
    for (const part of parts) {
      const [from, to] = [this.#path(template, { part }), this.#path(template, { part, copyId })];
      // it knows of holes, which most of a machine's memory is; what a machine has mapped is never written to
      if (part === 'save' || (await exists(from)))
        await runTool('cp', ['--remove-destination', '--', from, to]);
    }
  }

  pathOf(template: OfTemplate, copyId: string, part: Part = 'save'): Promise<string> {
    return Promise.resolve(this.#path(template, { copyId, part }));
  }

  async drop(template: OfTemplate, copyId: string): Promise<void> {
    for (const part of parts) await rm(this.#path(template, { copyId, part }), { force: true });
  }

  async copies({ id }: OfTemplate): Promise<string[]> {
    const names = await readdir(this.#workspace.directoryOf(id)).catch(() => []);
    const ids = names
      .filter((name) => name.startsWith(prefix))
      .map((name) => name.slice(prefix.length, name.lastIndexOf('.')));
    return [...new Set(ids)];
  }

  async #split(template: OfTemplate): ReturnType<SplitFiles['begin']> {
    const { memoryMiB, memoryMaxMiB = memoryMiB } = template.parameters;
    const sizeBytes = memoryMaxMiB * bytesPerMiB;
    const [memory, path] = [this.#file(template, draft), this.#path(template, { part: 'ram' })];
    await using saved = await this.open(template);
    await using ram = await open(path, 'w', 0o600);
    await ram.truncate(sizeBytes);
    const onPages: PageSink = async (at, bytes) => {
      await ram.write(bytes, 0, bytes.length, at);
    };
    const left = withoutMemory(saved.chunks(), { sizeBytes, name: mappedName, onPages });
    await pipeline(left, createWriteStream(memory, { flush: true }));
    await ram.sync(); // the record of it will be there after a power cut, too
    return { memory, mapped: { path, sizeBytes } };
  }

  #path(template: OfTemplate, { copyId, part = 'save' }: Which = {}): string {
    const name = copyId === undefined ? 'memory' : `${prefix}${copyId}`;
    return this.#file(template, `${name}${suffixes[part]}`);
  }

  #file({ id }: OfTemplate, name: string): string {
    return join(this.#workspace.directoryOf(id), name);
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
