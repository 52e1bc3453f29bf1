import type { X509Certificate } from 'node:crypto';
import { createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import type { TLSSocket } from 'node:tls';
import { errorText } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import { ByteSource } from '#kernel/net/byte-source.js';
import { connectTcp } from '#kernel/net/connect.js';
import { orAborted } from '#kernel/net/deadline.js';
import { normalAddress } from '#kernel/net/peer-address.js';
import { acceptTls, startTls, type MutualTls, type StartTls } from '#kernel/net/tls-upgrade.js';
import { equalDns, formatDn, subjectDn } from '#kernel/security/dn.js';
import { TsiError } from '#tsi/protocol/error.js';
import { without } from '../job/without.js';
import type { TsiTransport, WorkerChannels } from './tsi.js';

/** As the original's end does: a host that has vanished is noticed without a call under way. */
const socketOptions = { noDelay: true, keepAlive: true, keepAliveInitialDelay: 5_000 };
const connectMs = 10_000;
/** Mostly the caller's patience ends before; a main of the original with TLS dies of a handshake that is broken off. */
const handshakeMs = 60_000;
/**
 * After a handshake that failed half-way, its call-backs are waited for, lest the next one takes them. They were
 * asked for at once: later ones are rare, and the next handshake of the same host waits meanwhile.
 */
const lingerMs = 2_000;
/** How long call-backs may take once the TSI has left the connection that it was asked on: they can only be on their way. */
const leftMs = 2_000;

export type CallbackListenerOptions = {
  readonly host?: string;
  readonly port: number;
  readonly log: Log;
};

type Take = (socket: Socket) => void;

/** The handshakes of one host: they wait for each other. */
type Queue = { length: number; last: Promise<unknown> };

/** The connection that a TSI was asked on. The original leaves it when it has called back, or never will. */
type Asked = { readonly left: Promise<unknown>; readonly close: () => void };

/** What a handshake needs to know of its TSI. */
export type Handshake = {
  /** Whose address is contacted. */
  readonly host: string;
  /** How many connections the TSI makes for it. */
  readonly count: number;
  /**
   * Sends the request, to be called back at `replyPort`. Call-backs that come before it calls `sending`
   * are stale, those from another address than the one that was contacted are somebody else's.
   */
  readonly ask: (replyPort: number, sending: (contacted: string) => void) => Promise<Asked>;
  /** Makes a channel of a call-back, at once: the TSI may wait for that before it calls again. */
  readonly upgrade: (socket: Socket) => Promise<Socket>;
};

/** The call-backs of one handshake: expected from `begin` to `end`. */
type Called = {
  readonly begin: (contacted: string) => void;
  readonly end: () => void;
  readonly channels: Promise<Socket[]>;
};

/** Where call-backs may arrive. */
export type CallbackPorts = {
  /** Takes a port for one handshake of its host. @returns its call-backs in their order */
  handshake(handshake: Handshake, signal: AbortSignal): Promise<Socket[]>;
};

/**
 * One port that TSIs call back (§1.3). One handshake at a time of each host, whichever of its TSIs: nothing but
 * where it comes from says which request a call-back answers, so one that nobody waits for is closed at once. A
 * host that takes its time keeps only itself waiting.
 */
export class CallbackListener implements CallbackPorts, AsyncDisposable {
  readonly #server: Server;
  readonly #log: Log;
  readonly #sockets = new Set<Socket>();
  /** By the address that was contacted. */
  readonly #expected = new Map<string, Take>();
  readonly #queues = new Map<string, Queue>();

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

  /** Handshakes of the host that are under way, or wait for their turn. */
  handshakesOf(host: string): number {
    return this.#queues.get(normalAddress(host))?.length ?? 0;
  }

  async handshake(handshake: Handshake, signal: AbortSignal): Promise<Socket[]> {
    const { before, release } = this.#queue(handshake.host);
    const sockets: Socket[] = [];
    let asked: Asked | undefined;
    try {
      await orAborted(before, signal);
    } catch (error) {
      void before.then(release); // what is expected is of the one before
      throw error;
    }
    const called = this.#expect(handshake, sockets);
    try {
      asked = await handshake.ask(this.port, called.begin);
      const channels = await orAborted(inTime(called.channels, asked), signal);
      release();
      return channels;
    } catch (error) {
      sockets.forEach((socket) => socket.destroy());
      setTimeout(release, asked ? lingerMs : 0);
      throw error;
    } finally {
      called.end();
      asked?.close();
    }
  }

  #queue(host: string): { readonly before: Promise<unknown>; readonly release: () => void } {
    const key = normalAddress(host);
    const queue = this.#queues.get(key) ?? { length: 0, last: Promise.resolve() };
    this.#queues.set(key, queue);
    const before = queue.last;
    queue.length += 1;
    let release = (): void => undefined;
    queue.last = new Promise<void>((resolve) => (release = resolve)).then(() => {
      queue.length -= 1;
      if (queue.length === 0) this.#queues.delete(key);
    });
    return { before, release };
  }

  #expect({ count, upgrade }: Handshake, sockets: Socket[]): Called {
    const channels: Promise<Socket>[] = [];
    let begin: Called['begin'] = () => undefined;
    let end = (): void => undefined;
    const all = new Promise<Socket[]>((resolve, reject) => {
      const take = (socket: Socket): void => {
        sockets.push(socket);
        const channel = upgrade(socket);
        channel.catch(reject);
        channels.push(channel);
        if (channels.length < count) return;
        end();
        Promise.all(channels).then(resolve, reject);
      };
      begin = (contacted) => {
        const from = normalAddress(contacted);
        // by another name of the host
        if (this.#expected.has(from))
          throw new Error(`another handshake with ${from} is under way`);
        this.#expected.set(from, take);
        end = () => {
          if (this.#expected.get(from) === take) this.#expected.delete(from);
        };
      };
    });
    all.catch(() => undefined); // the request may fail first
    return { begin, channels: all, end: () => end() };
  }

  #accept(socket: Socket): void {
    const peer = socket.remoteAddress;
    this.#sockets.add(socket);
    socket.once('close', () => this.#sockets.delete(socket));
    socket.on('error', (error) => this.#log.debug({ peer, reason: error.message }, 'a TSI left'));
    const take = peer === undefined ? undefined : this.#expected.get(normalAddress(peer));
    if (take) {
      take(socket);
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

/** @throws when the TSI has left, as one that was killed has, and nothing has come since */
async function inTime<T>(channels: Promise<T>, { left }: Asked): Promise<T> {
  const over = new AbortController();
  const { signal } = over;
  const late = async (): Promise<never> => {
    await orAborted(left, signal);
    await sleep(leftMs, undefined, { signal });
    throw new Error('the TSI left without calling back');
  };
  const tooLate = late();
  tooLate.catch(() => undefined); // it may be over before
  try {
    return await Promise.race([channels, tooLate]);
  } finally {
    over.abort();
  }
}

/** Names are not bound to addresses: a TSI proves who it is by its certificate's subject. */
export type TsiTls = MutualTls & {
  /** Subjects that a TSI may have, RFC 2253; absent: whoever `ca` has signed. */
  readonly peerDns?: readonly string[];
  /** Instead: the machine that the TSI is on (ADR 039). */
  readonly machine?: MachinePeer;
};

export type MachinePeer = {
  readonly name: string;
  /** @throws for a certificate that is not its own */
  readonly require: (certificate: X509Certificate | undefined) => void;
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
  const { listener, tls } = options;
  const upgrade = async (socket: Socket): Promise<Socket> => {
    if (verb === 'start-forwarding') socket.allowHalfOpen = true;
    return tls ? admitted(await acceptTls(socket, handshakeOf(tls), handshakeMs), tls) : socket;
  };
  const ask: Handshake['ask'] = (replyPort, sending) =>
    request(options, `${verb} ${replyPort}${more}\n`, signal, sending);
  try {
    return await listener.handshake({ host: options.host, count, ask, upgrade }, signal);
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

type Reached = { readonly plain: Socket; readonly socket: Socket };

/** A connection to main, which has proved itself. */
async function reach(
  { host, port, tls }: CallbackTransportOptions,
  signal: AbortSignal,
): Promise<Reached> {
  const plain = await connectTcp({ host, port }, connectMs, signal);
  plain.on('error', () => plain.destroy());
  try {
    const socket = tls
      ? admitted(await orAborted(startTls(plain, handshakeOf(tls), handshakeMs), signal), tls)
      : plain;
    socket.on('error', () => plain.destroy());
    return { plain, socket };
  } catch (error) {
    plain.destroy();
    throw error;
  }
}

/** Asks main and reads one byte: `O` of `OK`. */
async function request(
  options: CallbackTransportOptions,
  line: string,
  signal: AbortSignal,
  sending: (contacted: string) => void,
): Promise<Asked> {
  const { plain, socket } = await reach(options, signal);
  const left = new Promise((resolve) => plain.once('close', resolve));
  try {
    sending(plain.remoteAddress ?? options.host);
    socket.write(line);
    const answer = await orAborted(new ByteSource(socket).read(1), signal);
    if (answer?.toString() !== 'O') throw new Error('the TSI does not grant it');
    return { left, close: () => plain.destroy() };
  } catch (error) {
    plain.destroy();
    throw error;
  }
}

/**
 * Asks a main what only our agent understands: `enrolment <json>`. Of TLS only, by what the image shows.
 * @returns its line; `undefined`: it does not know the question. @throws `TSI_UNAVAILABLE`
 */
export async function askMain(
  options: CallbackTransportOptions & { readonly tls: TsiTls },
  line: string,
  longest: number,
  signal: AbortSignal,
): Promise<string | undefined> {
  let reached: Reached | undefined;
  try {
    reached = await reach(options, signal);
    reached.socket.write(`${line}\n`);
    return await orAborted(readLine(new ByteSource(reached.socket), longest), signal);
  } catch (error) {
    throw unavailable(options, errorText(error), error);
  } finally {
    reached?.plain.destroy();
  }
}

/** @returns `undefined`: nothing was said */
async function readLine(source: ByteSource, longest: number): Promise<string | undefined> {
  let line = '';
  while (!line.endsWith('\n')) {
    const piece = await source.read(longest - line.length);
    if (!piece) break;
    line += piece.toString('latin1');
    if (line.length >= longest) throw new Error('the answer is too long');
  }
  return line === '' ? undefined : line;
}

/** Whether a machine's certificate is good is not for an authority alone to say. */
function handshakeOf(tls: TsiTls): StartTls {
  const { machine, ...own } = without(tls, 'peerDns');
  return machine ? { ...own, isUnchecked: true, servername: machine.name } : own;
}

/** @throws for a certificate of another than who is expected */
function admitted(socket: TLSSocket, { peerDns, machine }: TsiTls): TLSSocket {
  const certificate = socket.getPeerX509Certificate();
  if (machine) {
    try {
      machine.require(certificate);
      return socket;
    } catch (error) {
      socket.destroy();
      throw error;
    }
  }
  const subject = certificate && subjectDn(certificate);
  if (!peerDns || (subject && peerDns.some((dn) => equalDns(dn, subject)))) return socket;
  socket.destroy();
  throw new Error(`the TSI's certificate is of ${subject ? formatDn(subject) : 'nobody'}`);
}
