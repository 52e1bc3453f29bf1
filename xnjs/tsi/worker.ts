import type { ByteInput } from '#kernel/net/byte-input.js';
import { destroySoon } from '#kernel/net/destroy-soon.js';
import { MessageSource } from '#kernel/net/message-source.js';
import { openInput } from '#kernel/net/socket-source.js';
import { write } from '#kernel/net/write.js';
import * as commands from '#tsi/protocol/commands.js';
import { TsiError } from '#tsi/protocol/error.js';
import { MessageSplitter } from '#tsi/protocol/framing.js';
import {
  decodeEnd,
  decodeLength,
  decodePing,
  decodeReply,
  type AgentExtension,
  type PingReply,
} from '#tsi/protocol/reply.js';
import type { TsiIdentity, WorkerChannels } from './tsi.js';

/** Longest reply: a listing, mostly. */
const maxReplyBytes = 64 * 1024 * 1024;
/** A ping needs no one; some TSIs want the line all the same. */
const nobody: TsiIdentity = { login: 'nobody', groups: 'NONE' };

/** How long others wait for chunks that follow on each other, and how much of the first one's deadline these use. */
const aheadMs = 250;

/** A chunk to be put. */
export type Put = {
  readonly message: string;
  readonly bytes: Buffer;
  /** It is stored; its bytes are needed no more. */
  readonly onStored: () => void;
};

/** One TSI worker: a request, its reply, the next request. */
export class Worker {
  readonly #channels: WorkerChannels;
  readonly #splitter = new MessageSplitter(maxReplyBytes);
  readonly #replies: MessageSource<Buffer>;
  readonly #incoming: ByteInput;
  #inStep = true;
  #ping: PingReply = { version: '', extensions: new Set() };

  constructor(channels: WorkerChannels) {
    const { command } = channels;
    const { input, stream: data } = openInput(channels.data);
    this.#channels = { command, data };
    this.#replies = new MessageSource(command, (chunk) => this.#splitter.push(chunk));
    this.#incoming = input;
    this.#replies.onEnd = () => this.destroy();
    data.once('close', () => this.destroy());
  }

  get version(): string {
    return this.#ping.version;
  }

  /** Whether the TSI is our agent, and one that can do this. */
  can(extension: AgentExtension): boolean {
    return this.#ping.extensions.has(extension);
  }

  /** Whether the next request can be made here: the last is answered, and nothing came that was not asked. */
  get usable(): boolean {
    const { command, data } = this.#channels;
    const quiet =
      this.#replies.waiting + this.#splitter.pendingBytes + this.#incoming.waitingBytes === 0;
    return this.#inStep && quiet && command.writable && data.writable;
  }

  /** Learns what the TSI is. */
  async ping(): Promise<void> {
    const message = commands.ping.encode({ extensions: true }, nobody);
    this.#ping = decodePing(await this.call(message, commands.ping.bare));
  }

  /** @returns the payload of the reply. @throws `TSI_FAILED`, `TSI_PROTOCOL`, what broke the channel */
  async call(message: string, bare: boolean): Promise<string> {
    this.#inStep = false;
    await write(this.#channels.command, message);
    return this.#answer(await this.#reply(), bare);
  }

  /** GETFILECHUNK. @param memory of at least the bytes given. @returns the bytes of the chunk, there */
  async get(message: string, length: number, memory: (bytes: number) => Buffer): Promise<Buffer> {
    const announced = decodeLength(await this.call(message, false), length);
    this.#inStep = false;
    const chunk = memory(announced);
    const whole = await this.#incoming.fill(chunk.subarray(0, announced));
    if (!whole) throw new Error('the data channel ended inside a chunk');
    await this.#end();
    return chunk;
  }

  /**
   * PUTFILECHUNK. To our agent one is announced as soon as the bytes of the one before have gone: it asks for them
   * as it tells that those are stored.
   * @param following the next one, if it is there by then
   */
  async put(first: Put, following: () => Put | undefined): Promise<void> {
    const startedMs = performance.now();
    await this.call(first.message, false);
    for (let put: Put | undefined = first; put;) {
      this.#inStep = false;
      if (put.bytes.length > 0) await write(this.#channels.data, put.bytes);
      const isQuick = performance.now() - startedMs < aheadMs;
      const next: Put | undefined = isQuick && this.can('ordered-header') ? following() : undefined;
      if (next) await write(this.#channels.command, next.message);
      await this.#end(!next);
      put.onStored();
      if (next) await this.#granted();
      put = next;
    }
  }

  destroy(): void {
    this.#inStep = false;
    destroySoon(this.#channels.command);
    destroySoon(this.#channels.data);
  }

  async #granted(): Promise<void> {
    this.#inStep = false;
    this.#answer(await this.#reply(), false);
  }

  async #reply(): Promise<string> {
    const message = await this.#replies.next();
    if (!message) throw new Error('the TSI ended the connection');
    return message.toString();
  }

  /** A refusal leaves the channels in step, nonsense does not. */
  #answer(reply: string, bare: boolean): string {
    try {
      const payload = decodeReply(reply, bare);
      this.#inStep = true;
      return payload;
    } catch (error) {
      this.#inStep = error instanceof TsiError && error.code === 'TSI_FAILED';
      throw error;
    }
  }

  /**
   * After a failure inside a chunk only our agent has taken all of it.
   * @param isLast otherwise it waits for the bytes of another one, whatever became of this
   */
  async #end(isLast = true): Promise<void> {
    const reply = await this.#reply();
    this.#inStep = isLast && (this.can('ordered-header') || reply.trim() === '');
    decodeEnd(reply);
  }
}
