import { lookup } from 'node:dns/promises';
import { createServer, type AddressInfo, type Server, type Socket } from 'node:net';
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

  /** Takes the listener for one handshake. The first call-back is the command channel (§1.3). */
  async handshake(handshake: Handshake, signal: AbortSignal): Promise<WorkerChannels> {
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
    { from, upgrade }: Handshake,
    sockets: Socket[],
  ): { readonly begin: () => void; readonly channels: Promise<WorkerChannels> } {
    const channels: Promise<Socket>[] = [];
    let begin = (): void => undefined;
    const both = new Promise<WorkerChannels>((resolve, reject) => {
      const take = (socket: Socket): void => {
        sockets.push(socket);
        const channel = upgrade(socket);
        channel.catch(reject);
        channels.push(channel);
        if (channels.length < 2) return;
        this.#expected = undefined;
        Promise.all(channels).then(([command, data]) => {
          if (command && data) resolve({ command, data });
        }, reject);
      };
      begin = () => (this.#expected = { from, take });
    });
    both.catch(() => undefined); // the request may fail first
    return { begin, channels: both };
  }

  #accept(socket: Socket): void {
    const peer = socket.remoteAddress;
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
  const { host, port, listener, tls } = options;
  const name = `tcp ${host}:${port}`;
  return {
    name,
    async open(signal): Promise<WorkerChannels> {
      try {
        const from = (await lookup(host, { all: true })).map(({ address }) => address);
        const ask = (sending: () => void): Promise<void> => requestWorker(options, signal, sending);
        const upgrade = (socket: Socket): Promise<Socket> =>
          tls ? acceptTls(socket, tls, handshakeMs) : Promise.resolve(socket);
        return await listener.handshake({ from, ask, upgrade }, signal);
      } catch (error) {
        throw new TsiError(
          'TSI_UNAVAILABLE',
          `TSI ${name}: ${errorText(error)}`,
          { tsi: name },
          { cause: error },
        );
      }
    },
  };
}

/** Asks main for a worker and reads one byte: `O` of `OK`. */
async function requestWorker(
  { host, port, listener, tls }: CallbackTransportOptions,
  signal: AbortSignal,
  sending: () => void,
): Promise<void> {
  const plain = await orAborted(connectTcp({ host, port }, connectMs), signal);
  plain.on('error', () => plain.destroy());
  try {
    const socket = tls ? await orAborted(startTls(plain, tls, handshakeMs), signal) : plain;
    socket.on('error', () => plain.destroy());
    sending();
    socket.write(`newtsiprocess ${listener.port}\n`);
    const answer = await orAborted(new ByteSource(socket).read(1), signal);
    if (answer?.toString() !== 'O') throw new Error('the TSI does not grant a worker');
  } finally {
    plain.destroy();
  }
}
