import { Agent, request as httpRequest, type ClientRequest, type RequestOptions } from 'node:http';
import { Agent as TlsAgent, request as httpsRequest } from 'node:https';
import { connect, type Socket } from 'node:net';
import type { LocalService } from '#kernel/http/local.js';
import { clientTls } from '#kernel/security/tls.js';
import type { HeadersFor, SiteHeaders } from './headers.js';

export type BackendOptions = {
  /** `unix:/path/of.sock` or `https://host:port/base` */
  readonly address: string;
  /** Authorities of servers reached by https. */
  readonly ca: readonly string[];
  /** No byte in either direction for this long: the server is taken for dead. */
  readonly idleTimeoutMs: number;
  readonly connectTimeoutMs: number;
  readonly maxRequests: number;
};

/** Services in this process, by the address at which others reach them. */
export type LocalServices = ReadonlyMap<string, LocalService>;

/** Shorter than any site keeps idle connections, so that we are the ones who close them. */
const keptIdleMs = 15_000;
const pingTimeoutMs = 2_000;

/** A server of a site: how to reach it. */
export class Backend {
  /** What the latest attempt to connect told; a guess like any such knowledge. */
  alive = true;
  readonly #agent: Agent;
  readonly #request: typeof httpRequest;
  readonly #options: RequestOptions;
  readonly #connectTimeoutMs: number;
  readonly #basePath: string;
  readonly #hostHeader: string;

  readonly #local: LocalService | undefined;

  /** @param local the same service, where it is in this process */
  constructor(
    { address, ca, idleTimeoutMs, connectTimeoutMs, maxRequests }: BackendOptions,
    local?: LocalService,
  ) {
    this.#local = local;
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
      this.#agent = new TlsAgent({ ...kept, ...clientTls({ ca }) });
      this.#request = httpsRequest;
      this.#basePath = url.pathname.replace(/\/+$/, '');
      this.#hostHeader = url.host;
      const host = url.hostname.replace(/^\[|\]$/g, '');
      const port = Number(url.port || 443);
      this.#options = { host, port, agent: this.#agent, timeout: idleTimeoutMs };
    }
    this.#connectTimeoutMs = connectTimeoutMs;
  }

  /** The service itself, if it is in this process. */
  get local(): LocalService | undefined {
    return this.#local?.isOpen ? this.#local : undefined;
  }

  /** @param more `agent: false` for a request that keeps its connection for good */
  request(
    method: string,
    path: string,
    headersFor: HeadersFor,
    more?: RequestOptions,
  ): ClientRequest {
    const target = this.#basePath + path;
    const { added, kept } = this.headers(method, target, headersFor);
    const request = this.#request({
      ...this.#options,
      ...more,
      method,
      path: target,
      headers: [...added, ...kept],
    });
    request.once('socket', (socket) => this.#limitConnecting(socket));
    request.once('error', (error) => {
      if (isUnreached(error)) this.alive = false;
    });
    return request;
  }

  headers(method: string, target: string, headersFor: HeadersFor): SiteHeaders {
    const { kept, added } = headersFor(method, target);
    return { kept, added: ['Host', this.#hostHeader, ...added] };
  }

  /** Finds out whether something listens there. */
  ping(): Promise<boolean> {
    const { socketPath, host, port } = this.#options;
    return new Promise((resolve) => {
      const socket =
        typeof socketPath === 'string'
          ? connect(socketPath)
          : connect({ host: host ?? 'localhost', port: Number(port) });
      const done = (up: boolean) => {
        socket.destroy();
        this.alive = up;
        resolve(up);
      };
      socket.setTimeout(pingTimeoutMs, () => done(false));
      socket.once('connect', () => done(true)).once('error', () => done(false));
    });
  }

  close(): void {
    this.#agent.destroy();
  }

  #limitConnecting(socket: Socket): void {
    if (!socket.connecting) return;
    const timer = setTimeout(
      () => socket.destroy(new UnreachedError('time-out while connecting')),
      this.#connectTimeoutMs,
    );
    const stop = () => clearTimeout(timer);
    socket.once('connect', stop).once('close', stop);
  }
}

class UnreachedError extends Error {
  readonly syscall = 'connect';
}

/** Whether the server has seen nothing of the request: no connection came about. */
export function isUnreached(error: Error): boolean {
  return 'syscall' in error && (error.syscall === 'connect' || error.syscall === 'getaddrinfo');
}
