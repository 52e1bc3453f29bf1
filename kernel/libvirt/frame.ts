import { protocolError } from './errors.js';

/** 32 MiB of message and the length before it: the most that libvirt sends or takes. */
const maxFrameBytes = 32 * 1024 * 1024 + 4;
const headerBytes = 28;
const firstBufferBytes = 4096;

export const programs = { remote: 0x20008086, keepAlive: 0x6b656570 } as const;
export const protocolVersion = 1;
export const messageTypes = { call: 0, reply: 1, event: 2, stream: 3 } as const;
/** `continue` is for streams: more data, or none: end of file. */
export const statuses = { ok: 0, error: 1, continue: 2 } as const;

export type Header = {
  readonly program: number;
  readonly procedure: number;
  readonly type: number;
  readonly serial: number;
  readonly status: number;
};
export type Message = Header & { readonly payload: Buffer };

/** Length and header of a message whose payload is written after it. */
export function encodeHeader(header: Header, payloadBytes: number): Buffer {
  const length = headerBytes + payloadBytes;
  const { program, procedure, type, serial, status } = header;
  const bytes = Buffer.allocUnsafe(headerBytes);
  const words = [length, program, protocolVersion, procedure, type, serial, status];
  for (const [index, word] of words.entries()) bytes.writeUInt32BE(word, 4 * index);
  return bytes;
}

/**
 * Bytes in, whole messages out. Memory follows the bytes that came, not the length they claim; a
 * payload is a view of them.
 */
export class FrameReader {
  /** The beginning of a frame whose rest has not come yet. */
  #partial = Buffer.alloc(0);
  #used = 0;

  /** @throws `HYPERVISOR_PROTOCOL` at a length or version that cannot be; the rest is unreadable then */
  push(chunk: Buffer): Message[] {
    const messages: Message[] = [];
    let rest = chunk;
    while (rest.length > 0) {
      const length = this.#used === 0 && rest.length >= 4 ? frameLength(rest) : Infinity;
      if (length <= rest.length) {
        messages.push(decodeFrame(rest.subarray(0, length)));
        rest = rest.subarray(length);
      } else {
        rest = this.#collect(rest, messages);
      }
    }
    return messages;
  }

  /** Puts aside what belongs to the frame that has begun. @returns what comes after it */
  #collect(rest: Buffer, messages: Message[]): Buffer {
    const wanted = this.#used < 4 ? 4 : frameLength(this.#partial);
    const taken = Math.min(rest.length, wanted - this.#used);
    this.#reserve(this.#used + taken, wanted);
    rest.copy(this.#partial, this.#used, 0, taken);
    this.#used += taken;
    if (this.#used === wanted && wanted > 4) {
      messages.push(decodeFrame(this.#partial.subarray(0, wanted)));
      this.#partial = Buffer.alloc(0);
      this.#used = 0;
    }
    return rest.subarray(taken);
  }

  #reserve(needed: number, wanted: number): void {
    if (needed <= this.#partial.length) return;
    const doubled = Math.max(needed, 2 * this.#partial.length, firstBufferBytes);
    const larger = Buffer.allocUnsafe(Math.max(needed, Math.min(doubled, wanted)));
    this.#partial.copy(larger, 0, 0, this.#used);
    this.#partial = larger;
  }
}

/** The length of a frame includes itself. */
function frameLength(bytes: Buffer): number {
  const length = bytes.readUInt32BE(0);
  if (length < headerBytes || length > maxFrameBytes)
    throw protocolError('a message has an impossible length', { length });
  return length;
}

function decodeFrame(frame: Buffer): Message {
  const word = (index: number): number => frame.readUInt32BE(4 * index);
  if (word(2) !== protocolVersion)
    throw protocolError('a message has an unknown version', { version: word(2) });
  return {
    program: word(1),
    procedure: word(3),
    type: word(4),
    serial: word(5),
    status: word(6),
    payload: frame.subarray(headerBytes),
  };
}
