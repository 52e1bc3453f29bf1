import { Agent, request as httpRequest, type ClientRequest, type RequestOptions } from 'node:http';
import { Agent as TlsAgent, request as httpsRequest } from 'node:https';
import { connect, type Socket } from 'node:net';
import type { SecureContextOptions } from 'node:tls';
import type { RawHeaders } from './headers.js';

export type SiteOptions = {
  /** As configured; clients may spell it in any case. */
  name: string;
  /** `unix:/path/of.sock` or `https://host:port/base` */
  address: string;
  tls: SecureContextOptions;
  /** No byte in either direction for this long: the site is taken for dead. */
  idleTimeoutMs: number;
  connectTimeoutMs: number;
  /** Requests at a time. */
  maxRequests: number;
};

/** Shorter than any site keeps idle connections, so that we are the ones who close them. */
const keptIdleMs = 15_000;
const statusAgeMs = 30_000;
const statusTimeoutMs = 2_000;

/** A site behind the gateway: how to reach it, how busy it is, whether it lives. */
export class Site {
  readonly name: string;
  readonly maxRequests: number;
  /** Under way now. */
  active = 0;
  /** So far. */
  requests = 0;
  readonly #agent: Agent;
  readonly #request: typeof httpRequest;
  readonly #options: RequestOptions;
  readonly #connectTimeoutMs: number;
  readonly #basePath: string;
  readonly #hostHeader: string;
  #status: Promise<boolean> | undefined;
  #statusAt = 0;

  constructor(options: SiteOptions) {
    const { name, address, tls, idleTimeoutMs, connectTimeoutMs, maxRequests } = options;
    this.name = name;
    this.maxRequests = maxRequests;
    const kept = { keepAlive: true, maxSockets: maxRequests, timeout: keptIdleMs } as const;
    const socketPath = /^unix:(.+)$/.exec(address)?.[1];
    if (socketPath !== undefined) {
      this.#agent = new Agent(kept);
      this.#request = httpRequest;
      this.#basePath = '';
      this.#hostHeader = 'localhost';
      this.#options = { socketPath, agent: this.#agent, timeout: idleTimeoutMs };
    } else {
      const url = new URL(address);
      this.#agent = new TlsAgent({ ...kept, ...tls });
      this.#request = httpsRequest;
      this.#basePath = url.pathname.replace(/\/+$/, '');
      this.#hostHeader = url.host;
      const host = url.hostname.replace(/^\[|\]$/g, '');
      const port = url.port === '' ? 443 : Number(url.port);
      this.#options = { ...tls, host, port, agent: this.#agent, timeout: idleTimeoutMs };
    }
    this.#connectTimeoutMs = connectTimeoutMs;
  }

  /**
   * @param headers raw, without `Host`
   * @param more `agent: false` for a request that keeps its connection for good
   */
  request(method: string, path: string, headers: RawHeaders, more?: RequestOptions): ClientRequest {
    const request = this.#request({
      ...this.#options,
      ...more,
      method,
      path: this.#basePath + path,
      headers: ['Host', this.#hostHeader, ...headers],
    });
    request.once('socket', (socket) => this.#limitConnecting(socket));
    return request;
  }

  /** Whether something listens there; asked at most every 30 seconds. */
  isUp(now: number): Promise<boolean> {
    if (!this.#status || now - this.#statusAt > statusAgeMs) {
      this.#statusAt = now;
      this.#status = this.#ping();
    }
    return this.#status;
  }

  close(): void {
    this.#agent.destroy();
  }

  #limitConnecting(socket: Socket): void {
    if (!socket.connecting) return;
    const timer = setTimeout(
      () => socket.destroy(new Error('time-out while connecting')),
      this.#connectTimeoutMs,
    );
    const stop = () => clearTimeout(timer);
    socket.once('connect', stop).once('close', stop);
  }

  #ping(): Promise<boolean> {
    const { socketPath, host, port } = this.#options;
    return new Promise((resolve) => {
      const socket =
        typeof socketPath === 'string'
          ? connect(socketPath)
          : connect({ host: host ?? 'localhost', port: Number(port) });
      const done = (up: boolean) => {
        socket.destroy();
        resolve(up);
      };
      socket.setTimeout(statusTimeoutMs, () => done(false));
      socket.once('connect', () => done(true)).once('error', () => done(false));
    });
  }
}

/** Sites by name, whatever the case. */
export class SiteTable {
  readonly #sites: ReadonlyMap<string, Site>;

  constructor(sites: readonly Site[]) {
    this.#sites = new Map(sites.map((site) => [site.name.toLowerCase(), site]));
  }

  find(name: string): Site | undefined {
    return this.#sites.get(name) ?? this.#sites.get(name.toLowerCase());
  }

  all(): Site[] {
    return [...this.#sites.values()];
  }

  close(): void {
    for (const site of this.#sites.values()) site.close();
  }
}
