/** Whoever takes the pages of a machine's memory: `at` is an offset in it, in bytes. */
export type PageSink = (at: number, bytes: Buffer) => Promise<void>;
export type SplitOptions = {
  /** How large the machine's memory is. */
  readonly sizeBytes: number;
  /** What it is called in what is left. */
  readonly name: string;
  readonly onPages: PageSink;
};

/** libvirt's: magic, version, length of the definition after it, whether it ran, compression, 15 words more. */
const header = { magic: 'LibvirtQemudSave', version: 2, bytes: 92 } as const;
const headerAt = { version: 16, length: 20, compression: 28 } as const;
/** Definitions have some KiB. */
const longestDefinition = 4 * 1024 * 1024;
/** QEMU's stream: `QEVM`, version 3, its configuration, and then sections, of which memory is the first. */
const stream = { magic: 0x5145564d, version: 3, longestPrelude: 64 * 1024 } as const;
const section = { start: 1, part: 2, end: 3, footer: 0x7e } as const;
/** Name, instance and version of the section that holds all memory. */
const memorySection = Buffer.from('\x03ram\0\0\0\0\0\0\0\x04', 'latin1');
/** Low bits of an offset in a block of memory. */
const flag = { zero: 0x02, sizes: 0x04, page: 0x08, end: 0x10, sameBlock: 0x20 } as const;
const pageBytes = 4096;
/** Pages next to each other are handed on together. */
const mostPages = 256;

/**
 * Takes the memory out of a machine's saved memory, page by page, and leaves everything else of it: firmware, devices,
 * and libvirt's definition. That loads as before where there is already a memory of that name, which keeps what it has.
 *
 * The stream is QEMU's (docs/devel/migration.rst, `migration/ram.c`), of version 3 since 2007 (2.3 added footers); what
 * is not known of it is refused.
 * @throws what is saved is of another kind
 */
export async function* withoutMemory(
  saved: AsyncIterable<Buffer>,
  options: SplitOptions,
): AsyncGenerator<Buffer> {
  const reader = new Reader(saved);
  yield await copyDefinition(reader);
  yield await copyPrelude(reader);
  const memory = new MemoryReader(reader, options);
  const id = await reader.uint32();
  yield Buffer.concat([word(id), await reader.bytes(memorySection.length)]);
  yield* memory.sizes();
  for (let type: number = section.start; type !== section.end;) {
    if (type !== section.start) yield* memory.pages();
    yield await copyFooter(reader, id);
    const next = await reader.bytes(5);
    type = next[0] ?? 0;
    const isOfMemory = type === section.part || type === section.end;
    if (!isOfMemory || next.readUInt32BE(1) !== id) throw new Error('memory is not saved in a row');
    yield next;
  }
  yield* memory.pages();
  yield await copyFooter(reader, id);
  yield* reader.rest();
}

async function copyDefinition(reader: Reader): Promise<Buffer> {
  const head = await reader.bytes(header.bytes);
  const isKnown =
    head.toString('latin1', 0, header.magic.length) === header.magic &&
    head.readUInt32LE(headerAt.version) === header.version &&
    head.readUInt32LE(headerAt.compression) === 0;
  const length = head.readUInt32LE(headerAt.length);
  if (!isKnown || length > longestDefinition)
    throw new Error('the file of saved memory is of an unknown kind');
  return Buffer.concat([head, await reader.bytes(length)]);
}

/** Up to the first section's type. */
async function copyPrelude(reader: Reader): Promise<Buffer> {
  const start = await reader.peek(stream.longestPrelude);
  const at = start.indexOf(memorySection) - 5;
  const isKnown =
    at >= 8 &&
    start.readUInt32BE(0) === stream.magic &&
    start.readUInt32BE(4) === stream.version &&
    start[at] === section.start;
  if (!isKnown) throw new Error('the stream of saved memory is of an unknown kind');
  return await reader.bytes(at + 1);
}

async function copyFooter(reader: Reader, id: number): Promise<Buffer> {
  const footer = await reader.bytes(5);
  if (footer[0] !== section.footer || footer.readUInt32BE(1) !== id)
    throw new Error('a section of saved memory has no end');
  return footer;
}

/** The memory's own sections: its blocks and their sizes, then pages. */
class MemoryReader {
  readonly #reader: Reader;
  readonly #options: SplitOptions;
  /** What the machine's own memory is called in what is read. */
  #name = '';
  /** The block that an entry without a name belongs to, read and written. */
  #read = '';
  #written = '';
  /** Pages that have been handed on. */
  readonly #filled: Uint8Array;
  #runAt = 0;
  #run: Buffer[] = [];

  constructor(reader: Reader, options: SplitOptions) {
    this.#reader = reader;
    this.#options = options;
    this.#filled = new Uint8Array(Math.ceil(options.sizeBytes / pageBytes));
  }

  async *sizes(): AsyncGenerator<Buffer> {
    const total = await this.#reader.uint64();
    if ((Number(total) & (pageBytes - 1)) !== flag.sizes) throw unknownEntry(total);
    yield longWord(total);
    for (let left = Number(total) - flag.sizes; left > 0;) {
      const name = await this.#blockName();
      const size = await this.#reader.uint64();
      left -= Number(size);
      const isOwn = this.#name === '' && Number(size) === this.#options.sizeBytes;
      if (isOwn) this.#name = name;
      yield Buffer.concat([named(isOwn ? this.#options.name : name), longWord(size)]);
    }
    if (this.#name === '') throw new Error('the memory of the machine is of another size');
    const end = await this.#reader.uint64();
    if (Number(end) !== flag.end) throw unknownEntry(end);
    yield longWord(end);
  }

  async *pages(): AsyncGenerator<Buffer> {
    for (;;) {
      const entry = await this.#reader.uint64();
      const flags = Number(entry & 0xfffn);
      const at = entry & ~0xfffn;
      if (flags === flag.end) break;
      const kind = flags & ~flag.sameBlock;
      if (kind !== flag.zero && kind !== flag.page) throw unknownEntry(entry);
      if ((flags & flag.sameBlock) === 0) this.#read = await this.#blockName();
      const content = await this.#reader.bytes(kind === flag.zero ? 1 : pageBytes);
      if (this.#read === this.#name) await this.#take(Number(at), content);
      else yield this.#entry(at, kind, content);
    }
    await this.#handOn();
    yield longWord(BigInt(flag.end));
  }

  #entry(at: bigint, kind: number, content: Buffer): Buffer {
    const isSame = this.#written === this.#read;
    this.#written = this.#read;
    const head = longWord(at | BigInt(kind | (isSame ? flag.sameBlock : 0)));
    return Buffer.concat(isSame ? [head, content] : [head, named(this.#read), content]);
  }

  async #take(at: number, content: Buffer): Promise<void> {
    const number = at / pageBytes;
    if (number >= this.#filled.length) throw new Error('a page of saved memory is out of it');
    // what is empty stays a hole, unless the page was saved twice
    if (content.length === 1 && content[0] === 0 && this.#filled[number] !== 1) return;
    this.#filled[number] = 1;
    const isNext = at === this.#runAt + this.#run.length * pageBytes;
    if (!isNext || this.#run.length >= mostPages) await this.#handOn();
    if (this.#run.length === 0) this.#runAt = at;
    this.#run.push(content.length === 1 ? Buffer.alloc(pageBytes, content) : content);
  }

  async #handOn(): Promise<void> {
    if (this.#run.length > 0) await this.#options.onPages(this.#runAt, Buffer.concat(this.#run));
    this.#run = [];
  }

  async #blockName(): Promise<string> {
    const length = (await this.#reader.bytes(1))[0] ?? 0;
    return (await this.#reader.bytes(length)).toString('latin1');
  }
}

/** Reads by lengths what comes in chunks. */
class Reader {
  readonly #chunks: AsyncIterator<Buffer>;
  #rest: Buffer = Buffer.alloc(0);

  constructor(chunks: AsyncIterable<Buffer>) {
    this.#chunks = chunks[Symbol.asyncIterator]();
  }

  /** Less than `length` where there is no more. */
  async peek(length: number): Promise<Buffer> {
    while (this.#rest.length < length) {
      const next = await this.#chunks.next();
      if (next.done === true) break;
      this.#rest = Buffer.concat([this.#rest, next.value]);
    }
    return this.#rest.subarray(0, length);
  }

  async bytes(length: number): Promise<Buffer> {
    const found = this.#rest.length < length ? await this.peek(length) : this.#rest;
    if (found.length < length) throw new Error('the saved memory ends too early');
    const bytes = this.#rest.subarray(0, length);
    this.#rest = this.#rest.subarray(length);
    return bytes;
  }

  async uint32(): Promise<number> {
    return (await this.bytes(4)).readUInt32BE();
  }

  async uint64(): Promise<bigint> {
    return (await this.bytes(8)).readBigUInt64BE();
  }

  async *rest(): AsyncGenerator<Buffer> {
    yield this.#rest;
    for (let next = await this.#chunks.next(); next.done !== true; next = await this.#chunks.next())
      yield next.value;
  }
}

function word(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

function longWord(value: bigint): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(value);
  return bytes;
}

function named(name: string): Buffer {
  return Buffer.concat([Buffer.from([name.length]), Buffer.from(name, 'latin1')]);
}

function unknownEntry(entry: bigint): Error {
  return new Error(`saved memory has an entry of an unknown kind: ${entry.toString(16)}`);
}
