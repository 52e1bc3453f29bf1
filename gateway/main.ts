import { createPrivateKey } from 'node:crypto';
import type { RequestListener } from 'node:http';
import { createServer, type Server } from 'node:https';
import type { AddressInfo } from 'node:net';
import type { Duplex } from 'node:stream';
import { ListenError } from '#kernel/http/listen.js';
import type { Log } from '#kernel/log.js';
import { createConsignorSigner } from '#kernel/security/consignor.js';
import { clientTls, loadTls, readText, serverTls } from '#kernel/security/tls.js';
import { Clients, limitConnections } from './clients.js';
import type { GatewayConfig } from './config.js';
import { errorBody } from './reply.js';
import { Router } from './router.js';
import { Site, SiteTable } from './site.js';

export { GatewayConfig } from './config.js';

export type Gateway = {
  /** `https://host:port`, no slash at the end. */
  readonly url: string;
  /** Requests under way may finish; nothing new is taken. Closing twice is fine. */
  close(): Promise<void>;
};

/**
 * Starts the TLS front door of the sites.
 * @throws {@link ListenError} `ADDRESS_IN_USE`, `ConfigError` for files that cannot be read
 */
export async function startGateway(config: GatewayConfig, deps: { log: Log }): Promise<Gateway> {
  const log = deps.log.child({ part: 'gateway' });
  const [tls, signingKey] = await Promise.all([
    loadTls(config.tls),
    readText(config.signingKeyFile),
  ]);
  const sites = await openSites(config, tls.ca);
  const clients = new Clients(createConsignorSigner(createPrivateKey(signingKey)));
  const router = new Router({ sites, clients, log });
  const { limits } = config;
  const server = createServer({
    ...serverTls(tls),
    handshakeTimeout: limits.headSeconds * 1000,
    headersTimeout: limits.headSeconds * 1000,
    keepAliveTimeout: limits.keepAliveSeconds * 1000,
    // A whole upload may take hours: slow clients are found by what they move
    requestTimeout: 0,
    connectionsCheckingInterval: Math.min(5_000, limits.headSeconds * 250),
    maxHeaderSize: limits.headerBytes,
    noDelay: true,
    // Finds out that the other end of a tunnel is no more
    keepAlive: true,
    keepAliveInitialDelay: 60_000,
  });
  server.maxConnections = limits.connections;
  limitConnections(server, limits.connectionsPerClient, log);
  const handle: RequestListener = (request, response) => router.handle(request, response);
  server.on('request', handle).on('checkContinue', handle);
  server.on('upgrade', (request, socket, head) => router.upgrade(request, socket, head));
  server.on('clientError', answerBrokenRequest);
  server.on('tlsClientError', (err) => log.debug({ err }, 'TLS handshake failed'));
  const windowMs = limits.slowSeconds * 500;
  const sweep = setInterval(
    () => router.endSlow((limits.minBytesPerSecond * windowMs) / 1000),
    windowMs,
  );
  sweep.unref();
  const url = await listen(server, config.listen).catch((error: unknown) => {
    clearInterval(sweep);
    sites.close();
    throw error;
  });
  log.info({ url, sites: sites.all().map(({ name }) => name) }, 'gateway listens');
  let closing: Promise<void> | undefined;
  return {
    url,
    close: () =>
      (closing ??= drain(server, router, limits.drainSeconds * 1000).finally(() => {
        clearInterval(sweep);
        sites.close();
      })),
  };
}

async function openSites(config: GatewayConfig, clientsCa: readonly string[]): Promise<SiteTable> {
  const { upstream } = config;
  const ca = upstream.trustFiles ? await Promise.all(upstream.trustFiles.map(readText)) : clientsCa;
  return new SiteTable(
    Object.entries(config.sites).map(
      ([name, address]) =>
        new Site({
          name,
          address,
          tls: clientTls({ ca }),
          idleTimeoutMs: upstream.idleSeconds * 1000,
          connectTimeoutMs: upstream.connectSeconds * 1000,
          maxRequests: upstream.maxRequestsPerSite,
        }),
    ),
  );
}

function listen(server: Server, { host, port }: GatewayConfig['listen']): Promise<string> {
  return new Promise((resolve, reject) => {
    server.once('error', (cause: NodeJS.ErrnoException) => {
      const address = `${host}:${port}`;
      const used = cause.code === 'EADDRINUSE';
      const reason = used
        ? `${address} is used by another program`
        : `cannot listen on ${address}: ${cause.message}`;
      const code = used ? 'ADDRESS_IN_USE' : 'CONFIG_INVALID';
      reject(new ListenError(code, reason, { host, port }, { cause }));
    });
    server.listen({ host, port }, () => {
      const bound = (server.address() as AddressInfo).port;
      const everywhere = host === '::' || host === '0.0.0.0';
      const name = everywhere ? 'localhost' : host.includes(':') ? `[${host}]` : host;
      resolve(`https://${name}:${bound}`);
    });
  });
}

/** No new connections; what is under way gets its time, then its end. */
async function drain(server: Server, router: Router, patienceMs: number): Promise<void> {
  const closed = new Promise<void>((resolve) => server.close(() => resolve()));
  const timer = setTimeout(() => {
    router.endTunnels();
    server.closeAllConnections();
  }, patienceMs);
  await router.drain();
  // Tunnels have no end of their own to wait for
  router.endTunnels();
  server.closeIdleConnections();
  await closed;
  clearTimeout(timer);
}

const brokenRequests: Readonly<Record<string, readonly [number, string]>> = {
  HPE_HEADER_OVERFLOW: [431, 'Request Header Fields Too Large'],
  ERR_HTTP_REQUEST_TIMEOUT: [408, 'Request Timeout'],
};

/** What is not HTTP never becomes a request; it gets an answer all the same. */
function answerBrokenRequest(error: NodeJS.ErrnoException, socket: Duplex): void {
  if (error.code === 'ECONNRESET' || !socket.writable) {
    socket.destroy();
    return;
  }
  const [status, reason] = brokenRequests[error.code ?? ''] ?? [400, 'Bad Request'];
  const body = errorBody(status, reason);
  const head = [
    `HTTP/1.1 ${status} ${reason}`,
    'Connection: close',
    'Content-Type: application/json',
    `Content-Length: ${body.length}`,
  ];
  socket.end(`${head.join('\r\n')}\r\n\r\n${body}`, () => socket.destroy());
}
