import type { IncomingMessage } from 'node:http';
import { BlockList, isIP, isIPv6, type Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { errorText } from '#kernel/errors.js';
import { formatDn, subjectDn, type Dn } from '#kernel/security/dn.js';
import { clientCertificate } from '#kernel/security/tls.js';
import { addNetwork } from './config.js';
import { isHost } from './headers.js';

/** Who sent a request. */
export type Client = {
  readonly peer: string;
  readonly dn?: string;
  readonly name?: Dn;
  /** Why the certificate that was shown is not accepted. */
  readonly refused?: string;
  /** Was accepted by rules that count no more: this connection takes no further request. */
  readonly outdated?: boolean;
  /** `https://host` under which a proxy before us was asked. */
  readonly origin?: string;
};

/** Finds out once who is at the other end of a connection, whatever is asked over it. */
export class Clients {
  readonly #known = new WeakMap<Duplex, Client>();
  readonly #met = new WeakSet<Duplex>();
  readonly #proxies: Proxies;

  constructor(proxies: Proxies) {
    this.#proxies = proxies;
  }

  /** To be told of each connection whose certificate was verified by the rules of now. */
  meet(socket: Duplex): void {
    this.#met.add(socket);
  }

  at({ socket, headers }: IncomingMessage): Client {
    let client = this.#known.get(socket);
    if (!client) {
      client = this.#identify(socket);
      this.#known.set(socket, client);
    }
    const forwardedFor = headers['x-forwarded-for'];
    if (forwardedFor === undefined || !this.#proxies.include(client.peer)) return client;
    const peer = this.#proxies.clientOf(String(forwardedFor), client.peer);
    const origin = forwardedOrigin(headers);
    // The certificate is the proxy's own
    return origin === undefined ? { peer } : { peer, origin };
  }

  #identify(socket: Socket): Client {
    const peer = plainAddress(socket.remoteAddress);
    const shown = clientCertificate(socket);
    if (!shown) return { peer };
    if (shown.refused !== undefined) return { peer, refused: shown.refused };
    const outdated = !this.#met.has(socket);
    try {
      const name = subjectDn(shown.certificate);
      return { peer, name, dn: formatDn(name), outdated };
    } catch (error) {
      return { peer, refused: errorText(error) };
    }
  }
}

/** The front ends before us that are believed. */
export class Proxies {
  readonly #list = new BlockList();

  constructor(networks: readonly string[]) {
    for (const network of networks) addNetwork(this.#list, network);
  }

  include(address: string): boolean {
    return isIP(address) !== 0 && this.#list.check(address, isIPv6(address) ? 'ipv6' : 'ipv4');
  }

  /** The last address that no proxy of ours has: what stands before it anybody may have written. */
  clientOf(forwardedFor: string, proxy: string): string {
    let client = proxy;
    for (const part of forwardedFor.split(',').reverse()) {
      const address = plainAddress(part.trim());
      if (isIP(address) === 0) break;
      client = address;
      if (!this.include(address)) break;
    }
    return client;
  }
}

function forwardedOrigin(headers: IncomingMessage['headers']): string | undefined {
  const host = headers['x-forwarded-host'];
  if (typeof host !== 'string' || !isHost(host)) return undefined;
  return `${headers['x-forwarded-proto'] === 'http' ? 'http' : 'https'}://${host}`;
}

/** IPv4 that arrives at an IPv6 socket is written as IPv4. */
export function plainAddress(address = 'unknown'): string {
  return address.startsWith('::ffff:') && address.includes('.') ? address.slice(7) : address;
}
