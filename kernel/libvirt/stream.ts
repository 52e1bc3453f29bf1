import { Duplex } from 'node:stream';
import { decodeError } from './calls.js';
import { unavailable } from './errors.js';
import { statuses } from './frame.js';
import type { Direction, StreamProcedureName } from './procedures.js';

/** What libvirt takes in one packet. */
const maxPacketBytes = 262_120;
const highWaterMark = 256 * 1024;
const nothing = Buffer.alloc(0);

type Done = (error?: Error | null) => void;

/** The connection that carries the stream, and nothing else: libvirt's streams have no window of their own. */
export type StreamCarrier = {
  send(status: number, payload: Buffer, sent?: Done): void;
  pause(): void;
  resume(): void;
  close(): Promise<void>;
};

export type StreamOptions = {
  readonly procedure: StreamProcedureName;
  readonly direction: Direction;
  /** The time the daemon has to confirm the end, which for an upload is when the data is safe. */
  readonly finishTimeoutMs: number;
};

/**
 * A libvirt stream. Back-pressure is the carrier's socket: paused while the reader is slow, written to as
 * fast as it drains. Ending the writable side finishes the whole stream (libvirt has no half-close), and
 * `finish` comes when the daemon has confirmed it; destroying aborts.
 */
export class LibvirtStream extends Duplex {
  readonly #carrier: StreamCarrier;
  readonly #options: StreamOptions;
  #timer: NodeJS.Timeout | undefined;
  #finishing = false;
  #over = false;
  #finished: Done | undefined;

  constructor(carrier: StreamCarrier, options: StreamOptions) {
    super({ highWaterMark, allowHalfOpen: false, ...sides(options.direction) });
    this.#carrier = carrier;
    this.#options = options;
  }

  /** A packet of this stream: data, its end, the daemon's confirmation, or its refusal. */
  receive(status: number, payload: Buffer): void {
    if (this.#over || this.destroyed) return;
    if (status === statuses.ok) this.#end();
    else if (status === statuses.error) this.#refused(payload);
    else if (payload.length === 0) this.#finish();
    else if (this.#options.direction !== 'send' && !this.push(payload)) this.#carrier.pause();
  }

  override _read(): void {
    this.#carrier.resume();
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: Done): void {
    if (this.#finishing) {
      done(unavailable('the stream has ended', { procedure: this.#options.procedure }));
      return;
    }
    for (let at = 0; at < chunk.length; at += maxPacketBytes) {
      const last = at + maxPacketBytes >= chunk.length;
      this.#carrier.send(
        statuses.continue,
        chunk.subarray(at, at + maxPacketBytes),
        last ? done : undefined,
      );
    }
    if (chunk.length === 0) done(); // an empty packet would mean end of file
  }

  override _final(done: Done): void {
    if (this.#over) {
      done();
      return;
    }
    this.#finished = done;
    this.#finish();
  }

  override _destroy(error: Error | null, done: Done): void {
    clearTimeout(this.#timer);
    if (!this.#over) this.#carrier.send(statuses.error, nothing);
    this.#over = true;
    void this.#carrier.close();
    done(error);
  }

  /** Both sides say that they have no more: we ask for the confirmation, once. */
  #finish(): void {
    if (this.#finishing) return;
    this.#finishing = true;
    this.#carrier.send(statuses.ok, nothing);
    const { procedure, finishTimeoutMs: timeoutMs } = this.#options;
    this.#timer = setTimeout(() => {
      this.destroy(unavailable('libvirt did not confirm the end', { procedure, timeoutMs }));
    }, timeoutMs);
  }

  #end(): void {
    clearTimeout(this.#timer);
    this.#over = true;
    this.push(null);
    this.#finished?.();
  }

  #refused(payload: Buffer): void {
    this.#over = true;
    this.destroy(decodeError(payload, { procedure: this.#options.procedure }));
  }
}

/** What Node calls `readable` and `writable`: a side that is not there counts as ended. */
function sides(direction: Direction) {
  return { readable: direction !== 'send', writable: direction !== 'receive' };
}
