import { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import type { ByteInput, Sink } from './byte-input.js';
import { ByteSource } from './byte-source.js';

/** More than the system gives at a time. */
const slabBytes = 256 * 1024;

/** What carries a socket; node's types do not know it. */
type Handle = { reading: boolean; readStop(): void; useUserBuffer(buffer: Buffer): void };

function isHandle(value: unknown): value is Handle {
  if (typeof value !== 'object' || value === null) return false;
  const { reading, readStop, useUserBuffer } = value as Partial<Record<keyof Handle, unknown>>;
  return (
    typeof reading === 'boolean' &&
    typeof readStop === 'function' &&
    typeof useUserBuffer === 'function'
  );
}

/**
 * Reads a connection into memory that is used again and again. Node's own way takes 64 KiB of fresh memory for
 * each read, which costs more than the bytes that are copied into it.
 *
 * @NOTE node offers this (`onread`) for connections that it makes, not for those that it accepts: the connection
 * moves to a second `Socket`. Whoever ends one of them ends both.
 */
export class SocketSource implements ByteInput {
  /** The one to be used from now on. */
  readonly socket: Socket;
  readonly #slab = Buffer.allocUnsafeSlow(slabBytes);
  #from = 0;
  #to = 0;
  /** What the next bytes are read into: the slab, or what is being filled. */
  #into: Buffer = this.#slab;
  #target: Buffer | undefined;
  #filled = 0;
  #ended = false;
  #failure: Error | undefined;
  #wake: (() => void) | undefined;

  /**
   * @returns `undefined` for what is no plain connection, has bytes in it already in either direction, has ended on
   *   one side, or does not look inside as we know it
   */
  static of(stream: unknown): SocketSource | undefined {
    if (!(stream instanceof Socket) || Object.getPrototypeOf(stream) !== Socket.prototype)
      return undefined; // TLS
    if (stream.connecting || !stream.readable || !stream.writable) return undefined;
    if (stream.readableLength > 0 || stream.writableLength > 0) return undefined;
    const { _handle: handle } = stream as unknown as { _handle?: unknown };
    return isHandle(handle) ? new SocketSource(stream, handle) : undefined;
  }

  private constructor(first: Socket, handle: Handle) {
    handle.readStop();
    handle.reading = false;
    Object.assign(first, { _handle: null });
    const { allowHalfOpen } = first;
    const onread = {
      buffer: () => (this.#into = this.#target?.subarray(this.#filled) ?? this.#slab),
      callback: (bytes: number) => this.#arrive(bytes),
    };
    this.socket = new Socket({ handle, allowHalfOpen, onread } as object);
    this.socket.once('close', () => first.destroy());
    first.once('close', () => this.socket.destroy());
    const end = (error?: unknown): void => {
      if (error instanceof Error) this.#failure ??= error;
      this.#ended = true;
      this.#wake?.();
    };
    this.socket.on('error', end);
    this.socket.on('end', () => end());
    this.socket.on('close', () => end());
    this.socket.resume();
  }

  get waitingBytes(): number {
    return this.#to - this.#from;
  }

  async take(length: number, sink: Sink): Promise<boolean> {
    for (let left = length; left > 0;) {
      if (!(await this.#arrived())) return false;
      const piece = this.#slab.subarray(this.#from, Math.min(this.#to, this.#from + left));
      const taken = sink([piece]);
      if (taken) await taken;
      this.#from += piece.length;
      left -= piece.length;
    }
    if (this.waitingBytes === 0) this.socket.resume(); // its end is to be seen
    return true;
  }

  /** All but the first read go to where the bytes belong, and wake nobody in between. */
  async fill(target: Buffer): Promise<boolean> {
    this.#filled = this.#copyTo(target);
    this.#target = this.#filled < target.length ? target : undefined;
    while (this.#target) if (!(await this.#more())) return false;
    if (this.waitingBytes === 0) this.socket.resume(); // its end is to be seen
    return true;
  }

  async #arrived(): Promise<boolean> {
    while (this.waitingBytes === 0) if (!(await this.#more())) return false;
    return true;
  }

  /** @returns `false`: nothing more comes */
  async #more(): Promise<boolean> {
    if (this.#failure) throw this.#failure;
    if (this.#ended) return false;
    this.socket.resume();
    await new Promise<void>((resolve) => (this.#wake = resolve));
    return true;
  }

  /** @returns whether more is read at once */
  #arrive(bytes: number): boolean {
    if (this.#into === this.#slab) {
      this.#from = 0;
      this.#to = bytes;
    } else this.#filled += bytes;
    const target = this.#target;
    if (target) {
      this.#filled += this.#copyTo(target.subarray(this.#filled));
      if (this.#filled < target.length) return true;
      this.#target = undefined;
    }
    this.#wake?.();
    return false;
  }

  /** @returns how many there were */
  #copyTo(target: Buffer): number {
    const copied = this.#slab.copy(target, 0, this.#from, this.#to);
    this.#from += copied;
    return copied;
  }
}

/** How to read a channel fastest, and the stream to be used in its place from now on. */
export function openInput(channel: Duplex): { input: ByteInput; stream: Duplex } {
  const source = SocketSource.of(channel);
  return source
    ? { input: source, stream: source.socket }
    : { input: new ByteSource(channel), stream: channel };
}
