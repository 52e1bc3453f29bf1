import { protocolError } from './errors.js';
import { KnownTexts } from './known-texts.js';

/** XDR (RFC 4506): big-endian, every item padded to four bytes. A codec writes and reads one type. */
export type Codec<T> = {
  readonly write: (to: XdrWriter, value: T) => void;
  readonly read: (from: XdrReader) => T;
};
export type Infer<C> = C extends Codec<infer T> ? T : never;

/** What a frame of 32 MiB + 4 leaves for the payload. */
const maxPayloadBytes = 32 * 1024 * 1024 - 24;

export class XdrWriter {
  #bytes = Buffer.alloc(256);
  #length = 0;

  /** Room for `size` bytes and their padding; what is not written there stays zero. */
  #grow(size: number): number {
    const at = this.#length;
    this.#length = checkLength(at + size + padding(size), maxPayloadBytes);
    if (this.#length > this.#bytes.length) {
      const larger = Buffer.alloc(Math.max(this.#length, 2 * this.#bytes.length));
      this.#bytes.copy(larger, 0, 0, at);
      this.#bytes = larger;
    }
    return at;
  }

  int32(value: number): void {
    const at = this.#grow(4);
    this.#bytes.writeInt32BE(value, at);
  }

  uint32(value: number): void {
    const at = this.#grow(4);
    this.#bytes.writeUInt32BE(value, at);
  }

  int64(value: bigint): void {
    const at = this.#grow(8);
    this.#bytes.writeBigInt64BE(value, at);
  }

  uint64(value: bigint): void {
    const at = this.#grow(8);
    this.#bytes.writeBigUInt64BE(value, at);
  }

  float64(value: number): void {
    const at = this.#grow(8);
    this.#bytes.writeDoubleBE(value, at);
  }

  bytes(value: Uint8Array): void {
    const at = this.#grow(value.length);
    this.#bytes.set(value, at);
  }

  /** @param size of the text, in bytes */
  text(value: string, size: number): void {
    const at = this.#grow(size);
    this.#bytes.write(value, at, size, 'utf8');
  }

  finish(): Buffer {
    return this.#bytes.subarray(0, this.#length);
  }
}

export class XdrReader {
  readonly #bytes: Buffer;
  /** Of the same bytes: `Buffer` makes four large integers to read one. */
  readonly #view: DataView;
  #at = 0;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  }

  /** Steps over `size` bytes and their padding. @returns where they start */
  #take(size: number): number {
    const at = this.#at;
    const end = at + size + padding(size);
    if (end > this.#bytes.length) throw protocolError('a message ends too early', { at, size });
    this.#at = end;
    return at;
  }

  int32(): number {
    return this.#view.getInt32(this.#take(4));
  }

  uint32(): number {
    return this.#view.getUint32(this.#take(4));
  }

  int64(): bigint {
    return this.#view.getBigInt64(this.#take(8));
  }

  uint64(): bigint {
    return this.#view.getBigUint64(this.#take(8));
  }

  float64(): number {
    return this.#view.getFloat64(this.#take(8));
  }

  /** A view, valid as long as the message is: copy what is to be kept. */
  bytes(size: number): Buffer {
    const at = this.#take(size);
    return this.#bytes.subarray(at, at + size);
  }

  /** Without a view in between: figures of machines are thousands of short texts a second. */
  text(size: number): string {
    const at = this.#take(size);
    return this.#bytes.toString('utf8', at, at + size);
  }

  /** Where the same come again and again. */
  word(size: number, texts: KnownTexts): string {
    const at = this.#take(size);
    return texts.read(this.#bytes, at, size);
  }

  finish(): void {
    const surplus = this.#bytes.length - this.#at;
    if (surplus > 0) throw protocolError('a message is longer than its table says', { surplus });
  }
}

function padding(size: number): number {
  return -size & 3;
}

/** One whole payload. @throws `HYPERVISOR_PROTOCOL` if a value breaks a limit */
export function encode<T>(codec: Codec<T>, value: T): Buffer {
  const writer = new XdrWriter();
  codec.write(writer, value);
  return writer.finish();
}

/** @throws `HYPERVISOR_PROTOCOL` unless the bytes are exactly one value */
export function decode<T>(codec: Codec<T>, bytes: Buffer): T {
  const reader = new XdrReader(bytes);
  const value = codec.read(reader);
  reader.finish();
  return value;
}

/** Also for `uchar` and `ushort`, which take four bytes too. */
export const int: Codec<number> = { write: (to, v) => to.int32(v), read: (from) => from.int32() };
export const uint: Codec<number> = {
  write: (to, v) => to.uint32(v),
  read: (from) => from.uint32(),
};
export const hyper: Codec<bigint> = { write: (to, v) => to.int64(v), read: (from) => from.int64() };
export const uhyper: Codec<bigint> = {
  write: (to, v) => to.uint64(v),
  read: (from) => from.uint64(),
};
export const double: Codec<number> = {
  write: (to, v) => to.float64(v),
  read: (from) => from.float64(),
};
export const bool: Codec<boolean> = {
  write: (to, v) => to.int32(v ? 1 : 0),
  read: (from) => from.int32() !== 0,
};

const maxStringBytes = 4 * 1024 * 1024;

/** UTF-8. A NUL is refused: libvirt, written in C, would take what is before it for the whole. */
export function string(maxBytes = maxStringBytes): Codec<string> {
  return {
    write(to, value) {
      const size = checkLength(Buffer.byteLength(value, 'utf8'), maxBytes);
      if (value.includes('\0')) throw protocolError('a text must not contain NUL');
      to.uint32(size);
      to.text(value, size);
    },
    read: (from) => from.text(checkLength(from.uint32(), maxBytes)),
  };
}

/** A {@link string} of which the same few come again and again. */
export function word(): Codec<string> {
  const texts = new KnownTexts();
  const { write } = string();
  return { write, read: (from) => from.word(checkLength(from.uint32(), maxStringBytes), texts) };
}

/** Exactly `size` bytes, without a length before them. */
export function opaque(size: number): Codec<Buffer> {
  return {
    write(to, value) {
      if (value.length !== size)
        throw protocolError('an opaque value has the wrong size', { size });
      to.bytes(value);
    },
    read: (from) => Buffer.from(from.bytes(size)),
  };
}

/** `T | null` behind a flag. */
export function optional<T>(item: Codec<T>): Codec<T | null> {
  return {
    write(to, value) {
      to.uint32(value === null ? 0 : 1);
      if (value !== null) item.write(to, value);
    },
    read: (from) => (from.uint32() === 0 ? null : item.read(from)),
  };
}

/** At most `max` items, their number before them. */
export function array<T>(item: Codec<T>, max: number): Codec<T[]> {
  return {
    write(to, values) {
      to.uint32(checkLength(values.length, max));
      for (const value of values) item.write(to, value);
    },
    read(from) {
      // One by one: memory follows the bytes that are there, not the number that was claimed
      const items: T[] = [];
      for (let left = checkLength(from.uint32(), max); left > 0; left--)
        items.push(item.read(from));
      return items;
    },
  };
}

/** `char[size]`: each character takes four bytes, NULs fill what is left. */
export function chars(size: number): Codec<string> {
  return {
    write(to, value) {
      checkLength(value.length, size);
      const bytes = Buffer.alloc(size);
      bytes.write(value, 'latin1');
      for (const byte of bytes) to.int32(byte);
    },
    read(from) {
      const bytes = Buffer.from(Array.from({ length: size }, () => from.int32()));
      const end = bytes.indexOf(0);
      return bytes.toString('latin1', 0, end < 0 ? size : end);
    },
  };
}

// eslint-disable-next-line @typescript-eslint/no-explicit-any -- each field has a type of its own
export type Fields = Readonly<Record<string, Codec<any>>>;
export type Struct<F extends Fields> = { readonly [K in keyof F]: Infer<F[K]> };

/** The fields in the order in which they are written down. */
export function struct<const F extends Fields>(fields: F): Codec<Struct<F>> {
  const entries = Object.entries(fields);
  return {
    write(to, value) {
      for (const [key, codec] of entries) codec.write(to, value[key]);
    },
    read(from) {
      const value: Record<string, unknown> = {};
      for (const [key, codec] of entries) value[key] = codec.read(from);
      return value as Struct<F>; // as: the keys and their types are those of the table
    },
  };
}

export type Union<F extends Fields> = {
  [K in keyof F & number]: { readonly type: K; readonly value: Infer<F[K]> };
}[keyof F & number];

/** A number that says which of the rows follows. */
export function union<const F extends Fields>(rows: F): Codec<Union<F>> {
  const row = (type: number) => {
    const codec = rows[type];
    if (!codec) throw protocolError('a union has an unknown case', { type });
    return codec;
  };
  return {
    write(to, { type, value }) {
      const codec = row(type);
      to.int32(type);
      codec.write(to, value);
    },
    read(from) {
      const type = from.int32();
      const value: unknown = row(type).read(from);
      return { type, value } as Union<F>; // as: the row that was found decides the type
    },
  };
}

function checkLength(length: number, max: number): number {
  if (length > max) throw protocolError('a length is over its limit', { length, max });
  return length;
}
