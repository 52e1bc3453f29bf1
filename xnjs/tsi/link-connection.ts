import type { ClientHttp2Stream, OutgoingHttpHeaders } from 'node:http2';
import { performance } from 'node:perf_hooks';
import type { Duplex } from 'node:stream';
import { TsiError } from '#tsi/protocol/error.js';
import { AnswerLine } from './answer-line.js';
import {
  ackFlag,
  decodeWindowUpdate,
  defaultWindow,
  encodeFrame,
  encodeSettings,
  encodeWindowUpdate,
  type Frame,
  type FrameHead,
  FrameScanner,
  frameTypes,
  isAck,
  largestWindow,
  preface,
  requireShort,
  settingIds,
  type Treatment,
} from './http2-frames.js';
import { type Carried, LentSession, linkWindow, streamWindow } from './lent-session.js';

const none = Buffer.alloc(0);
/** What the agent is told first. It keeps no table of headers, so that each session can go on where another ended. */
const opening = Buffer.concat([
  preface,
  encodeSettings([
    [settingIds.headerTableSize, 0],
    [settingIds.enablePush, 0],
    [settingIds.initialWindowSize, streamWindow],
  ]),
  encodeWindowUpdate(linkWindow - defaultWindow),
]);
const pingPayload = Buffer.from('are you?');
const ping = encodeFrame(frameTypes.ping, 0, pingPayload);
const settingsAck = encodeFrame(frameTypes.settings, ackFlag, none);
/** All that an agent ever says of itself: thirty entries. */
const longestSettings = 180;
/** Most agents say the same: kept once, for whoever says it again. */
let lastSettings = none;
/** An agent that asks and does not read the answers is not waited for. */
const mostUnreadBytes = 65_536;
/**
 * Frames in a second that nothing of ours has called for: each takes as much time as some kilobytes of data. Our agent
 * asks once in five seconds, and begins with three.
 */
const mostUnasked = 100;

/**
 * One connection to an agent: HTTP/2 on the wire, with a session of node's only while there is something to ask
 * (ADR 038). In between heartbeats go by hand. The agent sees one connection that rests now and then.
 */
export class LinkConnection {
  /** Resolves with why, when it has ended. */
  readonly ended: Promise<Error | undefined>;
  /** The line by which the agent has answered the greeting, from then on. */
  answer: string | undefined;
  /** The agent has answered a heartbeat. */
  onAnswer: (() => void) | undefined;
  readonly #under: Duplex;
  readonly #restMs: number;
  /** Until the agent has answered what it was greeted with, or begun to speak HTTP/2. */
  #answer: AnswerLine | undefined;
  readonly #incoming = new FrameScanner((head) => this.#sort(head));
  readonly #carried: Carried = {
    ...{ sendable: defaultWindow, receivable: linkWindow },
    ...{ nextStream: 1, settings: none, dataFrames: 0 },
  };
  #end: ((reason: Error | undefined) => void) | undefined;
  #onSettled: (() => void) | undefined;
  #isSettled = false;
  #isAsked = false;
  /** Frames of the agent in the second that began then. */
  #unasked = 0;
  #unaskedSinceMs = 0;
  #lent: LentSession | undefined;
  #restTimer: NodeJS.Timeout | undefined;

  /**
   * @param restMs without a stream, after which it rests
   * @param greeting a line that the agent is told before anything else
   */
  constructor(under: Duplex, restMs: number, greeting?: string) {
    this.#under = under;
    this.#restMs = restMs;
    this.ended = new Promise((resolve) => (this.#end = resolve));
    under.on('data', (chunk: Buffer) => this.#receive(chunk));
    under.on('error', (error) => this.destroy(error));
    under.on('close', () => this.destroy());
    under.on('end', () => this.destroy());
    if (greeting !== undefined) this.#answer = new AnswerLine();
    under.write(greeting === undefined ? opening : Buffer.concat([Buffer.from(greeting), opening]));
  }

  /** Resolves when the agent's SETTINGS have come, it speaks HTTP/2, and now; or when that will not be. */
  async settled(): Promise<void> {
    await new Promise<void>((resolve) => {
      this.#onSettled = resolve;
      if (this.#isSettled || this.isOver) resolve();
    });
    this.#onSettled = undefined;
    if (this.isOver) throw (await this.ended) ?? new Error('the connection was closed');
  }

  get isOver(): boolean {
    return this.#end === undefined;
  }

  /** Whether there is no session at present. */
  get isResting(): boolean {
    return this.#lent === undefined;
  }

  /** Begins a session where there is none. @throws Error when the connection has ended */
  request(headers: OutgoingHttpHeaders, options = { endStream: false }): ClientHttp2Stream {
    if (this.isOver) throw new Error('the connection was closed');
    const lent = (this.#lent ??= this.#lend());
    clearTimeout(this.#restTimer);
    const stream = lent.session.request(headers, options);
    lent.open += 1;
    stream.once('close', () => {
      lent.open -= 1;
      if (lent.open === 0) this.#restSoon(lent);
    });
    return stream;
  }

  /** Sends a heartbeat; one at a time. */
  ask(): void {
    this.#isAsked = true;
    try {
      this.#say(ping);
    } catch (error) {
      this.destroy(error as Error);
    }
  }

  /** Ends it when the streams have ended that there are. */
  leave(): void {
    if (this.#lent) this.#lent.session.close();
    else this.destroy();
  }

  /** At the end of this turn of the event loop: see `destroySoon`. */
  destroy(reason?: Error): void {
    this.#end?.(reason);
    this.#end = undefined;
    this.#onSettled?.();
    clearTimeout(this.#restTimer);
    setImmediate(() => {
      this.#lent?.destroy(reason);
      this.#under.destroy();
    });
  }

  #lend(): LentSession {
    const lent = new LentSession(this.#carried, (parts, done) => {
      this.#under.cork();
      parts.forEach((part, at) =>
        this.#under.write(part, at === parts.length - 1 ? done : undefined),
      );
      this.#under.uncork();
    });
    lent.session.on('error', (error: Error) => this.#lent === lent && this.destroy(error));
    lent.session.once('close', () => this.#lent === lent && this.destroy());
    return lent;
  }

  #restSoon(lent: LentSession): void {
    if (this.isOver) return;
    this.#restTimer = setTimeout(() => {
      this.#restTimer = undefined;
      // its windows are the next one's, which needs at least what every connection begins with
      if (lent.isQuiet && this.#incoming.isBetween && this.#carried.sendable >= defaultWindow) {
        this.#lent = undefined;
        lent.destroy();
      } else this.#restSoon(lent);
    }, this.#restMs);
  }

  #receive(chunk: Buffer): void {
    try {
      for (const part of this.#incoming.push(this.#afterAnswer(chunk))) {
        if (this.isOver) return;
        if (Buffer.isBuffer(part)) this.#lent?.take(part);
        else this.#take(part);
      }
    } catch (error) {
      this.destroy(error as Error);
    }
  }

  #afterAnswer(chunk: Buffer): Buffer {
    if (!this.#answer) return chunk;
    const rest = this.#answer.push(chunk);
    if (!rest) return none;
    this.answer = this.#answer.text;
    this.#answer = undefined;
    return rest;
  }

  #sort(head: FrameHead): Treatment {
    const { type, stream, length } = head;
    if (!this.#isSettled && (type !== frameTypes.settings || stream !== 0 || isAck(head)))
      throw broken('it does not begin with SETTINGS');
    if (stream === 0 && isOfConnection(type)) return requireShort(head);
    const lent = this.#lent;
    const isLent = lent && stream >= lent.firstStream;
    if (type === frameTypes.data) {
      this.#carried.receivable -= length;
      if (this.#carried.receivable < 0) throw broken('it sends more than it may');
      if (isLent) lent.count(length);
    }
    if (isLent) return 'pass';
    if (stream >= this.#carried.nextStream) throw broken('it begins a stream');
    // data has its window
    if (type !== frameTypes.data || length === 0) this.#countUnasked();
    return 'drop'; // of a stream that we have given up
  }

  #take(frame: Frame): void {
    if (frame.type === frameTypes.goaway) throw broken('it leaves');
    else if (frame.type === frameTypes.ping) this.#takePing(frame);
    else if (frame.type === frameTypes.windowUpdate) {
      const more = decodeWindowUpdate(frame);
      // one for each frame of data is the most that an agent has reason for
      if (this.#carried.dataFrames > 0) this.#carried.dataFrames -= 1;
      else this.#countUnasked();
      this.#carried.sendable += more;
      if (this.#carried.sendable > largestWindow) throw broken('its window is too large');
      this.#lent?.take(encodeWindowUpdate(more));
    } else this.#takeSettings(frame);
  }

  #takeSettings(frame: Frame): void {
    this.#countUnasked();
    if (isAck(frame)) return;
    const settings = Buffer.concat([this.#carried.settings, frame.payload]);
    if (settings.length > longestSettings) throw broken('it says too much of itself');
    if (!lastSettings.equals(settings)) lastSettings = settings;
    this.#carried.settings = lastSettings;
    this.#lent?.take(encodeFrame(frameTypes.settings, 0, frame.payload));
    this.#say(settingsAck);
    this.#isSettled = true;
    this.#onSettled?.();
  }

  #takePing(frame: Frame): void {
    if (!isAck(frame)) {
      this.#countUnasked();
      this.#say(encodeFrame(frameTypes.ping, ackFlag, frame.payload));
      return;
    }
    if (!this.#isAsked || !frame.payload.equals(pingPayload))
      throw broken('it answers what was not asked');
    this.#isAsked = false;
    this.onAnswer?.();
  }

  /** @throws `TSI_PROTOCOL` where these are so many that they take the time of others */
  #countUnasked(): void {
    const now = performance.now();
    if (now - this.#unaskedSinceMs >= 1_000) {
      this.#unaskedSinceMs = now;
      this.#unasked = 0;
    }
    this.#unasked += 1;
    if (this.#unasked > mostUnasked) throw broken('it speaks too often unasked');
  }

  /** What is of the connection itself. */
  #say(frame: Buffer): void {
    const most = this.isResting ? mostUnreadBytes : linkWindow;
    if (this.#under.writableLength > most) throw broken('it does not read');
    if (this.isOver || this.#lent?.interject(frame) === true) return;
    this.#under.write(frame);
  }
}

function isOfConnection(type: number): boolean {
  const { settings, ping, goaway, windowUpdate } = frameTypes;
  return type === settings || type === ping || type === goaway || type === windowUpdate;
}

function broken(reason: string): TsiError {
  return new TsiError('TSI_PROTOCOL', `the agent breaks the rules of its link: ${reason}`);
}
