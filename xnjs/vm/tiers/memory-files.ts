import { createWriteStream } from 'node:fs';
import { mkdir, open, readdir, rename, rm, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { errorText } from '#kernel/errors.js';
import { requireRoom, takes } from '../disk-room.js';
import { mappedName, type MappedMemory } from '../memory-backend.js';
import { VmError } from '../state.js';
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
const fileNames = { save: 'memory.save', ram: 'memory.ram' } as const satisfies Record<
  Part,
  string
>;
/** libvirt's file without the memory, until that has proved good. */
const draft = 'devices.save';

/**
 * In the directory of the template, which other hosts may share: `memory.save`, `memory.ram`, and the same in a
 * directory for each copy. A QEMU that comes late, after its copy was dropped, finds none, and cannot make the file up.
 */
export class OwnMemoryFiles implements MemoryFiles {
  readonly #workspace: Pick<Workspace, 'directoryOf'>;
  readonly split: SplitFiles;

  constructor(workspace: Pick<Workspace, 'directoryOf'>) {
    this.#workspace = workspace;
    this.split = {
      begin: (template) => this.#split(template),
      keep: (template) => rename(this.#draftOf(template), this.#path(template)),
      drop: async (template) => {
        for (const path of [this.#draftOf(template), this.#path(template, { part: 'ram' })])
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
      write: (at, bytes) => writeAll(file, bytes, at),
      [Symbol.asyncDispose]: () => file.close(),
    };
  }

  async copy(template: OfTemplate, copyId: string): Promise<void> {
    await this.drop(template, copyId); // what a machine has mapped is never written to
    await this.#requireRoom(template, copyId);
    await mkdir(this.#directory(template, copyId), { mode: 0o711 });
    for (const part of parts) {
      const [from, to] = [this.#path(template, { part }), this.#path(template, { part, copyId })];
      // it knows of holes, which most of a machine's memory is
      if (part === 'save' || (await exists(from)))
        await orFull(runTool('cp', ['--', from, to]), copyId);
    }
  }

  pathOf(template: OfTemplate, copyId: string, part: Part = 'save'): Promise<string> {
    return Promise.resolve(this.#path(template, { copyId, part }));
  }

  async drop(template: OfTemplate, copyId: string): Promise<void> {
    await rm(this.#directory(template, copyId), { recursive: true, force: true });
  }

  async copies({ id }: OfTemplate): Promise<string[]> {
    const found = await readdir(this.#workspace.directoryOf(id)).catch(() => []);
    return found.filter((name) => name.startsWith(prefix)).map((name) => name.slice(prefix.length));
  }

  /** As much as it takes stays free: it is taken until its machine ends, and no quota knows of it. */
  async #requireRoom(template: OfTemplate, copyId: string): Promise<void> {
    const sizes = await Promise.all(parts.map((part) => takes(this.#path(template, { part }))));
    const neededMiB = Math.ceil((2 * sizes.reduce((sum, bytes) => sum + bytes, 0)) / bytesPerMiB);
    await requireRoom(this.#workspace.directoryOf(template.id), neededMiB, copyId);
  }

  async #split(template: OfTemplate): ReturnType<SplitFiles['begin']> {
    const { memoryMiB, memoryMaxMiB = memoryMiB } = template.parameters;
    const sizeBytes = memoryMaxMiB * bytesPerMiB;
    const [memory, path] = [this.#draftOf(template), this.#path(template, { part: 'ram' })];
    await using saved = await this.open(template);
    await using ram = await open(path, 'w', 0o600);
    await ram.truncate(sizeBytes);
    const onPages: PageSink = (at, bytes) => writeAll(ram, bytes, at);
    const left = withoutMemory(saved.chunks(), { sizeBytes, name: mappedName, onPages });
    await pipeline(left, createWriteStream(memory, { flush: true, mode: 0o600 }));
    await ram.sync(); // the record of it will be there after a power cut, too
    return { memory, mapped: { path, sizeBytes } };
  }

  #path(template: OfTemplate, { copyId, part = 'save' }: Which = {}): string {
    return join(this.#directory(template, copyId), fileNames[part]);
  }

  #directory({ id }: OfTemplate, copyId?: string): string {
    const own = this.#workspace.directoryOf(id);
    return copyId === undefined ? own : join(own, `${prefix}${copyId}`);
  }

  #draftOf(template: OfTemplate): string {
    return join(this.#directory(template), draft);
  }
}

/** A file takes what it is given in parts where there is little room. */
async function writeAll(file: FileHandle, bytes: Buffer, at: number): Promise<void> {
  for (let done = 0; done < bytes.length;) {
    const { bytesWritten } = await file.write(bytes, done, bytes.length - done, at + done);
    done += bytesWritten;
  }
}

async function orFull(work: Promise<void>, vmId: string): Promise<void> {
  await work.catch((cause: unknown) => {
    if (!/no space left|quota exceeded/i.test(errorText(cause))) throw cause;
    throw new VmError('STORAGE_FULL', errorText(cause), { vmId }, { cause });
  });
}

async function* chunksOf(file: FileHandle): AsyncGenerator<Buffer> {
  for (let at = 0; ;) {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(chunkBytes), 0, chunkBytes, at);
    if (bytesRead === 0) return;
    yield buffer.subarray(0, bytesRead);
    at += bytesRead;
  }
}
