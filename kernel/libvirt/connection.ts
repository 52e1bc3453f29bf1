import type { Duplex } from 'node:stream';
import { errorText } from '#kernel/errors.js';
import { Calls, type CallOptions } from './calls.js';
import { LibvirtError, unavailable } from './errors.js';
import { decodeEvent, type DomainEvent } from './events.js';
import {
  encodeHeader,
  FrameReader,
  messageTypes,
  programs,
  statuses,
  type Header,
  type Message,
} from './frame.js';
import { KeepAlive, type KeepAliveOptions } from './keep-alive.js';
import {
  streamProcedures,
  type AnyProcedureName,
  type Args,
  type ProcedureName,
  type Result,
  type StreamProcedureName,
} from './procedures.js';
import { LibvirtStream } from './stream.js';

export type ConnectionOptions = {
  /** Of calls that name none. */
  readonly callTimeoutMs: number;
  readonly maxInFlight: number;
  readonly onEvent?: (event: DomainEvent) => void;
};

const nothing = Buffer.alloc(0);
/** Keepalive procedures; they travel as events of serial 0. */
const ping = 1;
const pong = 2;
const goodbyeMs = 1000;

/** libvirt's protocol on one byte stream, from its first byte to its end. It never comes back. */
export class Connection implements AsyncDisposable {
  readonly #socket: Duplex;
  readonly #options: ConnectionOptions;
  readonly #frames = new FrameReader();
  readonly #calls: Calls;
  #serial = 0;
  #keepAlive: KeepAlive | undefined;
  #stream: { readonly serial: number; readonly duplex: LibvirtStream } | undefined;
  #ended: LibvirtError | undefined;
  #closing: Promise<void> | undefined;
  #resolveEnd!: (reason: LibvirtError) => void;
  /** Resolves with the reason for the end. */
  readonly end = new Promise<LibvirtError>((resolve) => (this.#resolveEnd = resolve));

  constructor(socket: Duplex, options: ConnectionOptions) {
    this.#socket = socket;
    this.#options = options;
    this.#calls = new Calls((procedure, serial, payload) => {
      const { call: type } = messageTypes;
      this.#send({ program: programs.remote, procedure, type, serial, status: 0 }, payload);
    }, options.maxInFlight);
    socket.on('data', (chunk: Buffer) => this.#receive(chunk));
    socket.on('error', (cause) => this.destroy(lost(cause)));
    socket.on('close', () => this.destroy(unavailable('libvirt closed the connection')));
    socket.resume(); // the transport may have read before us
  }

  /** @throws the daemon's answer; `HYPERVISOR_UNAVAILABLE` at the deadline or the connection's end */
  async call<N extends ProcedureName>(
    name: N,
    args: Args<N>,
    options: CallOptions = {},
  ): Promise<Result<N>> {
    return (await this.#call(this.#nextSerial(), name, args, options)) as Result<N>; // as: by the table
  }

  /** Gives the connection over to one stream: it closes with it. */
  async openStream<N extends StreamProcedureName>(
    name: N,
    args: Args<N>,
    options: CallOptions = {},
  ): Promise<LibvirtStream> {
    const serial = this.#nextSerial();
    const { number: procedure, direction } = streamProcedures[name];
    const { remote: program } = programs;
    const { stream: type } = messageTypes;
    const carrier = {
      send: (status: number, payload: Buffer, sent?: (error?: Error | null) => void) =>
        this.#send({ program, procedure, type, serial, status }, payload, sent),
      pause: () => void this.#socket.pause(),
      resume: () => void this.#socket.resume(),
      close: () => this.close(),
    };
    const { callTimeoutMs: finishTimeoutMs } = this.#options;
    const duplex = new LibvirtStream(carrier, { procedure: name, direction, finishTimeoutMs });
    // A daemon that breaks off must not end a process that has not looked at the stream yet
    duplex.on('error', () => undefined);
    // Before the call: data may come in the same chunk as the answer
    this.#stream = { serial, duplex };
    try {
      await this.#call(serial, name, args, options);
    } catch (error) {
      this.#stream = undefined;
      throw error;
    }
    if (duplex.errored) throw duplex.errored; // it broke off together with the answer
    return duplex;
  }

  startKeepAlive(options: KeepAliveOptions): void {
    this.#keepAlive ??= new KeepAlive(
      options,
      () => this.#sendKeepAlive(ping),
      () => this.destroy(unavailable('libvirt gives no sign of life', options)),
    );
  }

  /** Says goodbye, for a second at most. Calls in flight fail. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  destroy(reason: LibvirtError): void {
    if (this.#ended) return;
    this.#ended = reason;
    this.#keepAlive?.stop();
    this.#socket.destroy();
    this.#calls.failAll(reason);
    this.#stream?.duplex.destroy(reason);
    this.#resolveEnd(reason);
  }

  async #close(): Promise<void> {
    const reason = unavailable('the connection was closed');
    this.#calls.failAll(reason);
    const goodbye = this.#call(this.#nextSerial(), 'connect_close', {}, { timeoutMs: goodbyeMs });
    this.#socket.resume();
    await goodbye.catch(() => undefined); // the end is the same
    this.destroy(reason);
  }

  async #call(serial: number, name: AnyProcedureName, args: object, options: CallOptions) {
    if (this.#ended) throw this.#ended;
    const { signal, timeoutMs = this.#options.callTimeoutMs } = options;
    return this.#calls.run(serial, name, args, { signal, timeoutMs });
  }

  #nextSerial(): number {
    this.#serial = (this.#serial + 1) >>> 0;
    return this.#serial;
  }

  #receive(chunk: Buffer): void {
    this.#keepAlive?.heard();
    try {
      for (const message of this.#frames.push(chunk)) this.#dispatch(message);
    } catch (error) {
      // Nothing after it can be trusted, and an event may be lost: start anew and compare
      this.destroy(error instanceof LibvirtError ? error : lost(error));
    }
  }

  #dispatch(message: Message): void {
    const { program, procedure, type, serial, status, payload } = message;
    if (program === programs.keepAlive) {
      if (procedure === ping) this.#sendKeepAlive(pong);
    } else if (program !== programs.remote) return;
    else if (type === messageTypes.reply) this.#calls.answer(message);
    else if (type === messageTypes.stream) {
      if (serial === this.#stream?.serial) this.#stream.duplex.receive(status, payload);
    } else if (type === messageTypes.event) {
      const event = decodeEvent(procedure, payload);
      if (event) this.#options.onEvent?.(event);
    }
  }

  #sendKeepAlive(procedure: number): void {
    if (this.#socket.writableNeedDrain) return; // it does not read: pings must not pile up
    const header = { procedure, type: messageTypes.event, serial: 0, status: statuses.ok };
    this.#send({ program: programs.keepAlive, ...header }, nothing);
  }

  #send(header: Header, payload: Buffer, sent?: (error?: Error | null) => void): void {
    if (this.#ended) {
      sent?.(this.#ended);
      return;
    }
    this.#socket.cork();
    this.#socket.write(
      encodeHeader(header, payload.length),
      payload.length === 0 ? sent : undefined,
    );
    if (payload.length > 0) this.#socket.write(payload, sent);
    this.#socket.uncork();
  }
}

function lost(cause: unknown): LibvirtError {
  return unavailable(`the connection to libvirt broke: ${errorText(cause)}`, {}, cause);
}
