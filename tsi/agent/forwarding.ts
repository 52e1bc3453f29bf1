import { lookup } from 'node:dns/promises';
import { connect, isIP, type Socket } from 'node:net';
import { Transform, type Duplex } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { errorText } from '#kernel/errors.js';
import { TsiError } from '../protocol/error.js';
import type { User, Users } from './users.js';

const connectMs = 10_000;
/** A limited connection moves so often in a second. */
const movesPerSecond = 20;

type Service = { readonly path: string } | { readonly host: string; readonly port: number };

/** `file:<path>` or `host:port`; the host may be an IPv6 address, in brackets or not. */
export function parseService(text: string): Service {
  const path = /^file:(\/.*)$/.exec(text)?.[1];
  if (path !== undefined) return { path };
  const at = text.lastIndexOf(':');
  const host = text.slice(0, Math.max(at, 0)).replace(/^\[(.*)\]$/, '$1');
  const port = /^\d{1,5}$/.test(text.slice(at + 1)) ? Number(text.slice(at + 1)) : 0;
  if (host !== '' && !/[\s/]/.test(host) && port > 0 && port <= 65_535) return { host, port };
  throw new TsiError('TSI_FAILED', `this is not a service: ${text.slice(0, 200)}`);
}

/** A connection that the user makes: the kernel sees their ids. @throws {@link TsiError} `TSI_FAILED` */
export async function connectService(users: Users, user: User, text: string): Promise<Socket> {
  const service = parseService(text);
  try {
    if ('path' in service) return await opened(users, user, () => connect(service));
    const { host, port } = service;
    let failure = new Error(`${host} has no address`);
    for (const { address, family } of await lookup(host, { all: true }))
      try {
        return await opened(users, user, () => connectNow(address, family, port));
      } catch (error) {
        failure = error as Error; // of a socket
      }
    throw failure;
  } catch (error) {
    throw new TsiError('TSI_FAILED', `${text}: ${errorText(error)}`, {}, { cause: error });
  }
}

/**
 * @NOTE an address makes node connect in a later turn, when the ids are ours again; a name does not, once
 * it is looked up. So the address is given as what a name was looked up to.
 */
function connectNow(address: string, family: number, port: number): Socket {
  const host = isIP(address) ? 'service' : address;
  return connect({
    host,
    port,
    autoSelectFamily: false,
    lookup: (_host, _options, found) => found(null, address, family),
  });
}

function opened(users: Users, user: User, open: () => Socket): Promise<Socket> {
  const socket = users.as(user, open);
  socket.allowHalfOpen = true;
  return new Promise((resolve, reject) => {
    const late = setTimeout(
      () => socket.destroy(new Error('the service does not answer in time')),
      connectMs,
    );
    socket.once('connect', () => {
      clearTimeout(late);
      socket.setNoDelay(true);
      socket.setKeepAlive(true, 5_000);
      resolve(socket);
    });
    socket.on('error', reject); // for good: an error that nobody listens to is a fault
    socket.once('close', () => clearTimeout(late));
  });
}

/**
 * Moves bytes both ways until both directions have ended: one that ends first leaves the other. What breaks
 * one, breaks both.
 * @param rate bytes per second of each direction; 0 is without limit
 */
export async function relay(one: Duplex, other: Duplex, rate: number): Promise<void> {
  const move = (from: Duplex, to: Duplex): Promise<void> =>
    rate > 0 ? pipeline(from, slow(rate), to) : pipeline(from, to);
  await Promise.all([move(one, other), move(other, one)]);
}

function slow(rate: number): Transform {
  const piece = Math.max(1, Math.floor(rate / movesPerSecond));
  let dueMs = performance.now();
  const pass = async (chunk: Buffer, push: (part: Buffer) => void): Promise<void> => {
    for (let at = 0; at < chunk.length; at += piece) {
      const part = chunk.subarray(at, at + piece);
      const now = performance.now();
      dueMs = Math.max(dueMs, now - 1_000 / movesPerSecond) + (part.length * 1_000) / rate;
      if (dueMs > now) await sleep(dueMs - now);
      push(part);
    }
  };
  return new Transform({
    transform(chunk: Buffer, _encoding, done) {
      pass(chunk, (part) => this.push(part)).then(() => done(), done);
    },
  });
}
