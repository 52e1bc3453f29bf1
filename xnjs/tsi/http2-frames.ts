import { TsiError } from '#tsi/protocol/error.js';

/** RFC 9113, 6: what travels on the connection itself, and what has to be counted. */
export const frameTypes = {
  data: 0,
  headers: 1,
  settings: 4,
  ping: 6,
  goaway: 7,
  windowUpdate: 8,
} as const;
export const ackFlag = 1;
/** RFC 9113, 11.2 */
export const settingIds = { headerTableSize: 1, enablePush: 2, initialWindowSize: 4 } as const;

/** Of a connection, before anybody has changed it (RFC 9113, 6.9.2). */
export const defaultWindow = 65_535;
export const largestWindow = 2 ** 31 - 1;
/** Nobody has agreed to longer ones. */
const longestPayload = 16_384;
/** Of a frame that is taken whole: SETTINGS with thirty entries, GOAWAY with a word of why. */
const longestWhole = 192;
const headBytes = 9;

export const preface = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n');

export type FrameHead = {
  readonly length: number;
  readonly type: number;
  readonly flags: number;
  /** 0: the connection itself. */
  readonly stream: number;
};
export type Frame = FrameHead & { readonly payload: Buffer };
/** `whole`: as a {@link Frame}. `pass`: as bytes, as they come. `drop`: nothing is seen of it. */
export type Treatment = 'whole' | 'pass' | 'drop';

export function encodeFrame(type: number, flags: number, payload: Buffer, stream = 0): Buffer {
  const head = Buffer.alloc(headBytes);
  head.writeUIntBE(payload.length, 0, 3);
  head.writeUInt8(type, 3);
  head.writeUInt8(flags, 4);
  head.writeUInt32BE(stream, 5);
  return Buffer.concat([head, payload]);
}

export function encodeSettings(values: readonly (readonly [id: number, value: number])[]): Buffer {
  const payload = Buffer.alloc(6 * values.length);
  for (const [at, [id, value]] of values.entries()) {
    payload.writeUInt16BE(id, 6 * at);
    payload.writeUInt32BE(value, 6 * at + 2);
  }
  return encodeFrame(frameTypes.settings, 0, payload);
}

/** Of the connection's window. */
export function encodeWindowUpdate(bytes: number): Buffer {
  const payload = Buffer.alloc(4);
  payload.writeUInt32BE(bytes);
  return encodeFrame(frameTypes.windowUpdate, 0, payload);
}

export function isAck({ flags }: FrameHead): boolean {
  return (flags & ackFlag) !== 0;
}

/**
 * Splits one direction of an HTTP/2 connection into its frames. Keeps no more than the head of one, or one that is
 * taken whole.
 */
export class FrameScanner {
  readonly #treat: (head: FrameHead) => Treatment;
  /** Of what is not there entirely: a head, or a frame that is taken whole. */
  #begun: Buffer | undefined;
  /** Bytes of the frame that is being passed or dropped. */
  #left = 0;
  #isDropped = false;

  /** @param treat asked for each head; again for one that is to be taken whole and is not there yet */
  constructor(treat: (head: FrameHead) => Treatment) {
    this.#treat = treat;
  }

  /** Whether no frame has begun and not ended. */
  get isBetween(): boolean {
    return this.#left === 0 && this.#begun === undefined;
  }

  /** @throws {@link TsiError} `TSI_PROTOCOL`, and what `treat` throws: nothing can be read after that */
  *push(chunk: Buffer): Generator<Frame | Buffer, void> {
    const bytes = this.#begun ? Buffer.concat([this.#begun, chunk]) : chunk;
    this.#begun = undefined;
    let at = 0;
    // what is passed on is passed on together
    let from = 0;
    while (at < bytes.length) {
      if (this.#left === 0) {
        const head = decodeHead(bytes, at);
        const treatment = head && this.#treat(head);
        const end = at + headBytes + (head?.length ?? 0);
        if (!head || (treatment === 'whole' && end > bytes.length)) {
          if (from < at) yield bytes.subarray(from, at);
          // a copy: the chunk is larger by far
          this.#begun = Buffer.from(bytes.subarray(at));
          return;
        }
        if (treatment !== 'pass' && from < at) yield bytes.subarray(from, at);
        if (treatment === 'whole') {
          yield wholeFrame(head, bytes.subarray(at + headBytes, end));
          from = at = end;
          continue;
        }
        this.#left = headBytes + head.length;
        this.#isDropped = treatment === 'drop';
      }
      const some = Math.min(this.#left, bytes.length - at);
      this.#left -= some;
      at += some;
      if (this.#isDropped) from = at;
    }
    if (from < at) yield bytes.subarray(from, at);
  }
}

function decodeHead(bytes: Buffer, at: number): FrameHead | undefined {
  if (bytes.length - at < headBytes) return undefined;
  const length = bytes.readUIntBE(at, 3);
  if (length > longestPayload) throw new TsiError('TSI_PROTOCOL', 'a frame is too long');
  return {
    length,
    type: bytes.readUInt8(at + 3),
    flags: bytes.readUInt8(at + 4),
    stream: bytes.readUInt32BE(at + 5) & largestWindow,
  };
}

function wholeFrame(head: FrameHead, payload: Buffer): Frame {
  const { type, length } = head;
  const fits =
    type === frameTypes.settings
      ? length % 6 === 0 && !(isAck(head) && length > 0)
      : type === frameTypes.ping
        ? length === 8
        : type === frameTypes.windowUpdate
          ? length === 4
          : true;
  if (!fits) throw new TsiError('TSI_PROTOCOL', 'a frame has not the length of its kind', { type });
  return { ...head, payload };
}

/** @throws {@link TsiError} `TSI_PROTOCOL` too long to be taken whole */
export function requireShort({ length, type }: FrameHead): 'whole' {
  if (length <= longestWhole) return 'whole';
  throw new TsiError('TSI_PROTOCOL', 'a frame of the connection is too long', { type });
}

/** @throws {@link TsiError} `TSI_PROTOCOL` */
export function decodeWindowUpdate({ payload }: Frame): number {
  const bytes = payload.readUInt32BE() & largestWindow;
  if (bytes > 0) return bytes;
  throw new TsiError('TSI_PROTOCOL', 'a window is made larger by nothing');
}
