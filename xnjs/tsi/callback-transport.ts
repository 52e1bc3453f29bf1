import { createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { errorText } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import { ByteSource } from '#kernel/net/byte-source.js';
import { connectTcp } from '#kernel/net/connect.js';
import { orAborted } from '#kernel/net/deadline.js';
import { sameAddress } from '#kernel/net/peer-address.js';
import { acceptTls, startTls, type MutualTls } from '#kernel/net/tls-upgrade.js';
import { equalDns, formatDn, subjectDn } from '#kernel/security/dn.js';
import { TsiError } from '#tsi/protocol/error.js';
import type { TLSSocket } from 'node:tls';
import type { TsiTransport, WorkerChannels } from './tsi.js';

/** As the original's end does: a host that has vanished is noticed without a call under way. */
const socketOptions = { noDelay: true, keepAlive: true, keepAliveInitialDelay: 5_000 };
const connectMs = 10_000;
const handshakeMs = 10_000;
/** After a handshake that failed half-way, its call-backs are waited for, lest the next one takes them. */
const lingerMs = 2_000;

export type CallbackListenerOptions = {
  readonly host?: string;
  readonly port: number;
  readonly log: Log;
};

type Expected = { readonly from: string; readonly take: (socket: Socket) => void };

/** What a handshake needs to know of its TSI. */
export type Handshake = {
  /**
   * Sends the request, to be called back at `replyPort`. Call-backs that come before it calls `sending` are stale, those from another
   * address than the one that was contacted are somebody else's.
   */
  readonly ask: (replyPort: number, sending: (contacted: string) => void) => Promise<void>;
  /** Makes a channel of a call-back, at once: the TSI may wait for that before it calls again. */
  readonly upgrade: (socket: Socket) => Promise<Socket>;
};

/** Where call-backs may arrive. */
export type CallbackPorts = {
  /** Takes a port for one handshake. The first call-back is the command channel (§1.3). */
  handshake(handshake: Handshake, signal: AbortSignal): Promise<WorkerChannels>;
};

/**
 * One port that TSIs call back (§1.3). One handshake at a time, whatever the TSI: nothing in a call-back
 * says which request it answers, so one that nobody waits for is closed at once.
 */
export class CallbackListener implements CallbackPorts, AsyncDisposable {
  readonly #server: Server;
  readonly #log: Log;
  #expected: Expected | undefined;
  #handshakes = 0;
  #last: Promise<unknown> = Promise.resolve();

  private constructor(log: Log) {
    this.#log = log.child({ part: 'xnjs.tsi' });
    this.#server = createServer(socketOptions, (socket) => this.#accept(socket));
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

  /** Handshakes under way, or waiting for their turn. */
  get handshakes(): number {
    return this.#handshakes;
  }

  async handshake(handshake: Handshake, signal: AbortSignal): Promise<WorkerChannels> {
    const before = this.#last;
    let release = (): void => undefined;
    this.#last = new Promise<void>((resolve) => (release = resolve));
    this.#handshakes += 1;
    void this.#last.then(() => (this.#handshakes -= 1));
    const sockets: Socket[] = [];
    let asked = false;
    try {
      await orAborted(before, signal);
      const called = this.#expect(handshake, sockets);
      await handshake.ask(this.port, called.begin);
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
    { upgrade }: Handshake,
    sockets: Socket[],
  ): { readonly begin: (from: string) => void; readonly channels: Promise<WorkerChannels> } {
    const channels: Promise<Socket>[] = [];
    let begin: (from: string) => void = () => undefined;
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
      begin = (from) => (this.#expected = { from, take });
    });
    both.catch(() => undefined); // the request may fail first
    return { begin, channels: both };
  }

  #accept(socket: Socket): void {
    const peer = socket.remoteAddress;
    socket.on('error', (error) => this.#log.debug({ peer, reason: error.message }, 'a TSI left'));
    if (this.#expected && sameAddress(this.#expected.from, peer)) {
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

/** Names are not bound to addresses: a TSI proves who it is by its certificate's subject. */
export type TsiTls = MutualTls & {
  /** Subjects that a TSI may have, RFC 2253; absent: whoever `ca` has signed. */
  readonly peerDns?: readonly string[];
};

export type CallbackTransportOptions = {
  readonly host: string;
  readonly port: number;
  readonly listener: CallbackPorts;
  /** Absent: plain TCP. */
  readonly tls?: TsiTls;
};

/** Workers of a TSI with a classic main: our agent's, or the original's from 8.3 on. */
export function callbackTransport(options: CallbackTransportOptions): TsiTransport {
  const { host, port, tls } = options;
  const name = `tcp ${host}:${port}`;
  return {
    name,
    async open(signal): Promise<WorkerChannels> {
      try {
        const ask: Handshake['ask'] = (replyPort, sending) =>
          requestWorker(options, replyPort, signal, sending);
        const upgrade = async (socket: Socket): Promise<Socket> =>
          tls ? admitted(await acceptTls(socket, tls, handshakeMs), tls) : socket;
        return await options.listener.handshake({ ask, upgrade }, signal);
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
  { host, port, tls }: CallbackTransportOptions,
  replyPort: number,
  signal: AbortSignal,
  sending: (contacted: string) => void,
): Promise<void> {
  const plain = await orAborted(connectTcp({ host, port }, connectMs), signal);
  plain.on('error', () => plain.destroy());
  try {
    const contacted = plain.remoteAddress ?? host;
    const socket = tls
      ? admitted(await orAborted(startTls(plain, tls, handshakeMs), signal), tls)
      : plain;
    socket.on('error', () => plain.destroy());
    sending(contacted);
    socket.write(`newtsiprocess ${replyPort}\n`);
    const answer = await orAborted(new ByteSource(socket).read(1), signal);
    if (answer?.toString() !== 'O') throw new Error('the TSI does not grant a worker');
  } finally {
    plain.destroy();
  }
}

/** @throws for a certificate of another than who is expected */
function admitted(socket: TLSSocket, { peerDns }: TsiTls): TLSSocket {
  const certificate = socket.getPeerX509Certificate();
  const subject = certificate && subjectDn(certificate);
  if (!peerDns || (subject && peerDns.some((dn) => equalDns(dn, subject)))) return socket;
  socket.destroy();
  throw new Error(`the TSI's certificate is of ${subject ? formatDn(subject) : 'nobody'}`);
}
