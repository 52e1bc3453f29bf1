import { connect, type ClientHttp2Session } from 'node:http2';
import { Duplex } from 'node:stream';
import {
  ackFlag,
  decodeWindowUpdate,
  defaultWindow,
  encodeFrame,
  encodeWindowUpdate,
  type Frame,
  type FrameHead,
  FrameScanner,
  frameTypes,
  isAck,
  preface,
  requireShort,
  type Treatment,
} from './http2-frames.js';

/** How much the agent may send ahead: on a stream, and on all of them. */
export const streamWindow = 2 * 1024 * 1024;
export const linkWindow = 16 * 1024 * 1024;
/** For agents that disregard that. */
const mostUnread = 4 * linkWindow;
/** Answers that wait for the end of a frame. */
const mostInterjected = 1_000;
const none = Buffer.alloc(0);

/** What one session leaves to the next of the same connection. */
export type Carried = {
  /** How many bytes of data each side may still send on all streams. */
  sendable: number;
  receivable: number;
  nextStream: number;
  /** What the agent has said of itself. */
  settings: Buffer;
  /** Frames of data that it was sent, and has not made its window larger for. */
  dataFrames: number;
};

/**
 * A session of node's on a connection that has begun without it. What it has to say at a beginning is kept from the
 * agent, which has heard it, and answered here; its streams go on with the numbers, its windows with what is left.
 */
export class LentSession {
  readonly session: ClientHttp2Session;
  readonly firstStream: number;
  /** Streams that have not ended. */
  open = 0;
  readonly #carried: Carried;
  readonly #face: Face;
  readonly #outgoing = new FrameScanner((head) => this.#sort(head));
  #prefaceLeft = preface.length;
  #isOver = false;
  /** What the session believes that the agent may still send. */
  #believed = defaultWindow;
  /** Said by others, while the session was in the middle of a frame. */
  readonly #interjected: Buffer[] = [];

  /** @param send takes what is for the agent, and tells when that has gone */
  constructor(carried: Carried, send: (parts: readonly Buffer[], done: Done) => void) {
    this.#carried = carried;
    this.firstStream = carried.nextStream;
    this.#face = new Face((chunks, done) => {
      // it says goodbye, which is not for the agent
      const parts = this.#isOver ? [] : chunks.flatMap((chunk) => this.#filter(chunk));
      if (parts.length > 0) send(parts, done);
      else done();
    });
    this.session = connect('http://agent', {
      createConnection: () => this.#face,
      settings: { initialWindowSize: streamWindow, enablePush: false },
      // of what a session before has sent nothing is left in the agent's memory
      maxDeflateDynamicTableSize: 0,
      maxSessionMemory: 64,
    });
    this.session.setLocalWindowSize(linkWindow);
    // all versions of node have it, their types do not
    (this.session as Numbered).setNextStreamID(this.firstStream);
    this.take(encodeFrame(frameTypes.settings, 0, carried.settings));
    const more = carried.sendable - defaultWindow;
    if (more > 0) this.take(encodeWindowUpdate(more));
  }

  /** Whether nothing is under way in it. */
  get isQuiet(): boolean {
    const { readableLength, writableLength } = this.#face;
    return this.open === 0 && readableLength + writableLength === 0 && this.#outgoing.isBetween;
  }

  /** From the agent. @throws Error where the agent does not care how much it may send */
  take(bytes: Buffer): void {
    if (this.#face.readableLength > mostUnread) throw new Error('the agent sends too far ahead');
    this.#face.push(bytes);
  }

  /** Data that a stream of it gets. */
  count(bytes: number): void {
    this.#believed -= bytes;
  }

  /**
   * @returns whether it is sent by the session, between its frames; else it may be sent at once
   * @throws Error where the agent asks again and again
   */
  interject(frame: Buffer): boolean {
    if (this.#outgoing.isBetween) return false;
    if (this.#interjected.length >= mostInterjected) throw new Error('the agent asks too often');
    this.#interjected.push(frame);
    return true;
  }

  /** The connection goes on without it. Not from inside its own events: see `destroySoon`. */
  destroy(error?: Error): void {
    this.#isOver = true;
    this.session.destroy(error);
    this.#face.destroy();
  }

  #filter(chunk: Buffer): Buffer[] {
    const skipped = Math.min(this.#prefaceLeft, chunk.length);
    this.#prefaceLeft -= skipped;
    const parts: Buffer[] = [];
    for (const part of this.#outgoing.push(chunk.subarray(skipped))) {
      const said = Buffer.isBuffer(part) ? part : this.#instead(part);
      if (said) parts.push(said);
    }
    if (this.#outgoing.isBetween) parts.push(...this.#interjected.splice(0));
    return parts;
  }

  #sort(head: FrameHead): Treatment {
    const { type, stream, length } = head;
    if (type === frameTypes.data) {
      this.#carried.sendable -= length;
      this.#carried.dataFrames += 1;
    }
    if (type === frameTypes.headers)
      this.#carried.nextStream = Math.max(this.#carried.nextStream, stream + 2);
    const isTold = type === frameTypes.settings || type === frameTypes.windowUpdate;
    return isTold && stream === 0 ? requireShort(head) : 'pass';
  }

  /** @returns what the agent is told instead */
  #instead(frame: Frame): Buffer | undefined {
    if (frame.type === frameTypes.settings) {
      if (!isAck(frame)) this.take(encodeFrame(frameTypes.settings, ackFlag, none));
      return undefined;
    }
    const carried = this.#carried;
    this.#believed += decodeWindowUpdate(frame);
    const more = this.#believed - carried.receivable;
    if (more <= 0) return undefined;
    carried.receivable += more;
    return encodeWindowUpdate(more);
  }
}

type Numbered = ClientHttp2Session & { setNextStreamID(id: number): void };
type Done = (error?: Error | null) => void;

/**
 * What the session believes to be its connection.
 *
 * @NOTE It is filled whether or not the session reads. node:http2 does not read while it writes: two such ends with
 * full buffers in both directions wait for each other for good (`EagerDuplex`).
 */
class Face extends Duplex {
  readonly #say: (chunks: readonly Buffer[], done: Done) => void;

  constructor(say: (chunks: readonly Buffer[], done: Done) => void) {
    super({ allowHalfOpen: false });
    this.#say = say;
  }

  override _read(): void {
    // it comes by itself
  }

  override _write(chunk: Buffer, _: BufferEncoding, done: Done): void {
    this.#say([chunk], done);
  }

  override _writev(chunks: { chunk: Buffer; encoding: BufferEncoding }[], done: Done): void {
    this.#say(
      chunks.map(({ chunk }) => chunk),
      done,
    );
  }
}
