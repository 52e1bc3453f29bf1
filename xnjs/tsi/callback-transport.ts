import { lookup } from 'node:dns/promises';
import { createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { errorText } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import { ByteSource } from '#kernel/net/byte-source.js';
import { connectTcp } from '#kernel/net/connect.js';
import { orAborted } from '#kernel/net/deadline.js';
import { sameAddress } from '#kernel/net/peer-address.js';
import { acceptTls, startTls, type MutualTls } from '#kernel/net/tls-upgrade.js';
import { TsiError } from '#tsi/protocol/error.js';
import type { TsiTransport, WorkerChannels } from './tsi.js';

const connectMs = 10_000;
const handshakeMs = 10_000;
/** After a handshake that failed half-way, its call-backs are waited for, lest the next one takes them. */
const lingerMs = 2_000;

export type CallbackListenerOptions = {
  readonly host?: string;
  readonly port: number;
  readonly log: Log;
};

type Expected = { readonly from: readonly string[]; readonly take: (socket: Socket) => void };

/** What a handshake needs to know of its TSI. */
type Handshake = {
  /** How many connections the TSI makes for it. */
  readonly count: number;
  /** Addresses that the TSI may call from. */
  readonly from: readonly string[];
  /** Sends the request; call-backs that come before it calls `sending` are stale. */
  readonly ask: (sending: () => void) => Promise<void>;
  /** Makes a channel of a call-back, at once: the TSI may wait for that before it calls again. */
  readonly upgrade: (socket: Socket) => Promise<Socket>;
};

/**
 * The port that TSIs call back (§1.3). One handshake at a time, whatever the TSI: nothing in a call-back
 * says which request it answers, so one that nobody waits for is closed at once.
 */
export class CallbackListener implements AsyncDisposable {
  readonly #server: Server;
  readonly #log: Log;
  readonly #sockets = new Set<Socket>();
  #expected: Expected | undefined;
  #last: Promise<unknown> = Promise.resolve();

  private constructor(log: Log) {
    this.#log = log.child({ part: 'xnjs.tsi' });
    this.#server = createServer({ noDelay: true, keepAlive: true }, (socket) =>
      this.#accept(socket),
    );
  }

  static async open({ host, port, log }: CallbackListenerOptions): Promise<CallbackListener> {
    const listener = new CallbackListener(log);
    await new Promise<void>((resolve, reject) => {
      listener.#server.once('error', reject);
      listener.#server.listen({ port, host }, resolve);
    });
    return listener;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  /** Takes the listener for one handshake. @returns its call-backs in their order */
  async handshake(handshake: Handshake, signal: AbortSignal): Promise<Socket[]> {
    const before = this.#last;
    let release = (): void => undefined;
    this.#last = new Promise<void>((resolve) => (release = resolve));
    const sockets: Socket[] = [];
    let asked = false;
    try {
      await orAborted(before, signal);
      const called = this.#expect(handshake, sockets);
      await handshake.ask(called.begin);
      asked = true;
      const channels = await orAborted(called.channels, signal);
      release();
      return channels;
    } catch (error) {
      sockets.forEach((socket) => socket.destroy());
      void before.then(() => setTimeout(release, asked ? lingerMs : 0));
      throw error;
    } finally {
      this.#expected = undefined;
    }
  }

  #expect(
    { count, from, upgrade }: Handshake,
    sockets: Socket[],
  ): { readonly begin: () => void; readonly channels: Promise<Socket[]> } {
    const channels: Promise<Socket>[] = [];
    let begin = (): void => undefined;
    const all = new Promise<Socket[]>((resolve, reject) => {
      const take = (socket: Socket): void => {
        sockets.push(socket);
        const channel = upgrade(socket);
        channel.catch(reject);
        channels.push(channel);
        if (channels.length < count) return;
        this.#expected = undefined;
        Promise.all(channels).then(resolve, reject);
      };
      begin = () => (this.#expected = { from, take });
    });
    all.catch(() => undefined); // the request may fail first
    return { begin, channels: all };
  }

  #accept(socket: Socket): void {
    const peer = socket.remoteAddress;
    this.#sockets.add(socket);
    socket.once('close', () => this.#sockets.delete(socket));
    socket.on('error', (error) => this.#log.debug({ peer, reason: error.message }, 'a TSI left'));
    if (this.#expected?.from.some((address) => sameAddress(address, peer))) {
      this.#expected.take(socket);
      return;
    }
    this.#log.info({ peer }, 'a call-back that nobody waits for was closed');
    socket.destroy();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#server.listening) return;
    this.#sockets.forEach((socket) => socket.destroy());
    await new Promise((resolve) => this.#server.close(resolve));
  }
}

export type CallbackTransportOptions = {
  readonly host: string;
  readonly port: number;
  readonly listener: CallbackListener;
  /** Absent: plain TCP. */
  readonly tls?: MutualTls;
};

/** Workers of a TSI with a classic main: our agent's, or the original's from 8.3 on. */
export function callbackTransport(options: CallbackTransportOptions): TsiTransport {
  return {
    name: `tcp ${options.host}:${options.port}`,
    /** The first call-back is the command channel (§1.3). */
    async open(signal): Promise<WorkerChannels> {
      const [command, data] = await callBacks(options, 'newtsiprocess', '', 2, signal);
      if (command && data) return { command, data };
      throw unavailable(options, 'a call-back is missing');
    },
    /** From 9.1 on. Stock TSIs end both halves with the first (§1.8). */
    async forward({ login, groups }, service, signal): Promise<Duplex> {
      const words = ` ${service} ${login} ${groups}`;
      if (/[\0\r\n]/.test(words) || service.trim() !== service || service === '')
        throw new TsiError('TSI_PROTOCOL', 'this cannot be said to a TSI as a service', {
          service,
        });
      const [socket] = await callBacks(options, 'start-forwarding', words, 1, signal);
      if (socket) return socket;
      throw unavailable(options, 'a call-back is missing');
    },
  };
}

async function callBacks(
  options: CallbackTransportOptions,
  verb: 'newtsiprocess' | 'start-forwarding',
  more: string,
  count: number,
  signal: AbortSignal,
): Promise<Socket[]> {
  const { host, listener, tls } = options;
  const upgrade = (socket: Socket): Promise<Socket> => {
    if (verb === 'start-forwarding') socket.allowHalfOpen = true;
    return tls ? acceptTls(socket, tls, handshakeMs) : Promise.resolve(socket);
  };
  try {
    const from = (await lookup(host, { all: true })).map(({ address }) => address);
    const line = `${verb} ${listener.port}${more}\n`;
    const ask = (sending: () => void): Promise<void> => request(options, line, signal, sending);
    return await listener.handshake({ count, from, ask, upgrade }, signal);
  } catch (error) {
    throw unavailable(options, errorText(error), error);
  }
}

function unavailable(
  { host, port }: CallbackTransportOptions,
  reason: string,
  cause?: unknown,
): TsiError {
  const name = `tcp ${host}:${port}`;
  return new TsiError('TSI_UNAVAILABLE', `TSI ${name}: ${reason}`, { tsi: name }, { cause });
}

/** Asks main and reads one byte: `O` of `OK`. */
async function request(
  { host, port, tls }: CallbackTransportOptions,
  line: string,
  signal: AbortSignal,
  sending: () => void,
): Promise<void> {
  const plain = await orAborted(connectTcp({ host, port }, connectMs), signal);
  plain.on('error', () => plain.destroy());
  try {
    const socket = tls ? await orAborted(startTls(plain, tls, handshakeMs), signal) : plain;
    socket.on('error', () => plain.destroy());
    sending();
    socket.write(line);
    const answer = await orAborted(new ByteSource(socket).read(1), signal);
    if (answer?.toString() !== 'O') throw new Error('the TSI does not grant it');
  } finally {
    plain.destroy();
  }
}
