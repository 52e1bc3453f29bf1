import { isIPv6, type Server, type Socket } from 'node:net';
import type { Log } from '#kernel/log.js';
import { plainAddress, type Proxies } from './clients.js';

export type ConnectionLimits = {
  readonly connections: number;
  readonly connectionsPerClient: number;
};

const keepAliveDelayMs = 60_000;

/** Open connections: keeps one client from taking all. Counted before TLS, which costs most. */
export class Connections {
  readonly #limits: ConnectionLimits;
  readonly #proxies: () => Proxies;
  readonly #log: Log;
  readonly #perClient = new Map<string, number>();
  readonly #open = new Set<Socket>();
  #waiting: (() => void)[] = [];

  constructor(limits: ConnectionLimits, proxies: () => Proxies, log: Log) {
    this.#limits = limits;
    this.#proxies = proxies;
    this.#log = log;
  }

  watch(server: Server): void {
    server.on('connection', (socket) => this.#meet(socket));
  }

  endAll(): void {
    for (const socket of this.#open) socket.destroy();
  }

  /** Resolves when none is open. */
  async whenNone(): Promise<void> {
    if (this.#open.size > 0) await new Promise<void>((resolve) => this.#waiting.push(resolve));
  }

  /** Counts a new connection, or ends it at once. */
  #meet(socket: Socket): void {
    const address = plainAddress(socket.remoteAddress);
    const client = this.#proxies().include(address) ? undefined : network(address);
    this.#open.add(socket);
    socket.setNoDelay(true);
    // Finds out that the other end of a tunnel is no more
    socket.setKeepAlive(true, keepAliveDelayMs);
    const ofClient = client === undefined ? 0 : this.#add(client, 1);
    socket.once('close', () => {
      this.#open.delete(socket);
      if (client !== undefined) this.#add(client, -1);
      if (this.#open.size === 0) for (const resolve of this.#waiting.splice(0)) resolve();
    });
    const { connections, connectionsPerClient } = this.#limits;
    if (this.#open.size <= connections && ofClient <= connectionsPerClient) return;
    this.#log.debug({ peer: address }, 'too many connections');
    socket.destroy();
  }

  #add(client: string, change: number): number {
    const count = (this.#perClient.get(client) ?? 0) + change;
    if (count > 0) this.#perClient.set(client, count);
    else this.#perClient.delete(client);
    return count;
  }
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
