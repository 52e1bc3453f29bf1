import { isIPv6, type Server, type Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { errorText } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import { formatDn, subjectDn, type Dn } from '#kernel/security/dn.js';
import { clientCertificate } from '#kernel/security/tls.js';

/** Who is at the other end of a connection. Found out once, whatever is asked over it. */
export type Client = {
  readonly peer: string;
  readonly dn?: string;
  /** The header that tells sites about `dn`. */
  readonly consignor?: string;
  /** Why the certificate that was shown is not accepted. */
  readonly refused?: string;
};

export class Clients {
  readonly #known = new WeakMap<Duplex, Client>();
  readonly #sign: (dn: Dn) => string;

  constructor(sign: (dn: Dn) => string) {
    this.#sign = sign;
  }

  at(socket: Socket): Client {
    const known = this.#known.get(socket);
    if (known) return known;
    const client = this.#identify(socket);
    this.#known.set(socket, client);
    return client;
  }

  #identify(socket: Socket): Client {
    const peer = plainAddress(socket.remoteAddress);
    const shown = clientCertificate(socket);
    if (!shown) return { peer };
    if (shown.refused !== undefined) return { peer, refused: shown.refused };
    try {
      const dn = subjectDn(shown.certificate);
      return { peer, dn: formatDn(dn), consignor: this.#sign(dn) };
    } catch (error) {
      return { peer, refused: errorText(error) };
    }
  }
}

/** Keeps one client from taking all connections; counted before TLS, which costs most. */
export function limitConnections(server: Server, perClient: number, log: Log): void {
  const open = new Map<string, number>();
  server.on('connection', (socket) => {
    const client = network(plainAddress(socket.remoteAddress));
    const count = (open.get(client) ?? 0) + 1;
    open.set(client, count);
    socket.once('close', () => {
      const left = (open.get(client) ?? 1) - 1;
      if (left > 0) open.set(client, left);
      else open.delete(client);
    });
    if (count <= perClient) return;
    log.debug({ peer: client }, 'too many connections from one client');
    socket.destroy();
  });
}

/** IPv4 that arrives at an IPv6 socket is written as IPv4. */
function plainAddress(address = 'unknown'): string {
  return address.startsWith('::ffff:') && address.includes('.') ? address.slice(7) : address;
}

/** Whoever has an IPv6 address has 2^64 of them. */
function network(address: string): string {
  if (!isIPv6(address)) return address;
  const [head = '', tail] = address.split('::');
  const groups = head === '' ? [] : head.split(':');
  const rest = tail === undefined || tail === '' ? [] : tail.split(':');
  const zeros = tail === undefined ? 0 : 8 - groups.length - rest.length;
  const whole = [...groups, ...Array.from({ length: zeros }, () => '0'), ...rest];
  return whole.slice(0, 4).join(':');
}
