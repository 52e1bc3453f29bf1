import { randomBytes } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import { createServer, type Server } from 'node:https';
import { Server as NetServer, type Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { loadConfig } from '#kernel/config.js';
import { systemClock } from '#kernel/clock.js';
import { requestsThatUpgrade } from '#kernel/http/upgrade.js';
import type { Log } from '#kernel/log.js';
import type { Metrics } from '#kernel/metrics.js';
import { Scope } from '#kernel/scope.js';
import { versionOf, watchPaths } from '#kernel/watch.js';
import { createAcmeServer } from './acme.js';
import type { LocalServices } from './backend.js';
import { ClientResponse } from './client-response.js';
import { Clients } from './clients.js';
import { GatewayConfig, tokensPath } from './config.js';
import { Connections } from './connections.js';
import { listen, urlOf } from './listen.js';
import { mostRegistered, type Registered } from './registration.js';
import { errorBody, errorHeaders, GatewayError } from './reply.js';
import { countExchanges } from './exchange-metrics.js';
import { Router } from './router.js';
import { loadSettings, siteOptions, watchedPaths, type Settings } from './settings.js';
import { SiteTable } from './site.js';
import { opensTunnel } from './tunnel.js';

export type ServerDeps = {
  readonly log: Log;
  /** Where `config` is from: read again when it changes. */
  readonly configFile?: string | undefined;
  /** A socket that listens already, instead of `config.listen`. */
  readonly fd?: number | undefined;
  /** Another process listens on this port and passes connections on, to be taken by {@link GatewayServer.take}. */
  readonly listensElsewhere?: number | undefined;
  /** Sites in this process. */
  readonly local?: LocalServices | undefined;
  /** Shared by processes that serve the same clients. */
  readonly ticketSecret?: Buffer | undefined;
  readonly registered?: readonly Registered[] | undefined;
  readonly metrics?: Metrics | undefined;
  /** `key`: what a later one with the same takes the place of. */
  readonly onRegistered?: ((site: Registered, key: string) => void) | undefined;
};

const TunnelRequest = requestsThatUpgrade(opensTunnel);

type ClientServer = Server<typeof IncomingMessage, typeof ClientResponse>;

/** One process's gateway. */
export class GatewayServer {
  readonly #deps: ServerDeps;
  readonly #log: Log;
  readonly #scope = new Scope();
  readonly #ticketSecret: Buffer;
  readonly #sites: SiteTable;
  readonly #registered = new Map<string, Registered>();
  readonly #router: Router;
  readonly #server: ClientServer;
  readonly #connections: Connections;
  #settings: Settings;
  #clients: Clients;
  #reloading: Promise<void> = Promise.resolve();
  #closing: Promise<void> | undefined;
  #url = '';
  #acmePort: number | undefined;
  #silence: NodeJS.Timeout | undefined;

  /** @throws {@link ListenError} `ADDRESS_IN_USE`, `ConfigError` for files that cannot be read */
  static async start(config: GatewayConfig, deps: ServerDeps): Promise<GatewayServer> {
    const version = await versionOf(watchedPaths(config, deps.configFile));
    const ticketSecret = deps.ticketSecret ?? randomBytes(48);
    const settings = await loadSettings(config, ticketSecret);
    const gateway = new GatewayServer(settings, ticketSecret, deps);
    try {
      await gateway.#open(version);
      return gateway;
    } catch (error) {
      await gateway.#scope.close();
      throw error;
    }
  }

  private constructor(settings: Settings, ticketSecret: Buffer, deps: ServerDeps) {
    this.#deps = deps;
    this.#log = deps.log;
    this.#settings = settings;
    this.#ticketSecret = ticketSecret;
    this.#clients = new Clients(settings.proxies);
    this.#sites = new SiteTable(deps.local ?? new Map());
    for (const site of deps.registered ?? []) this.#keepKnown(site);
    this.#showSites();
    this.#router = new Router({
      settings: () => this.#settings,
      clients: () => this.#clients,
      sites: this.#sites,
      register: (site) => {
        const key = this.#register(site);
        deps.onRegistered?.(site, key);
      },
      log: deps.log,
      onExchanged: deps.metrics && countExchanges(deps.metrics, this.#sites),
    });
    const { limits } = settings.config;
    this.#connections = new Connections(limits, () => this.#settings.proxies, this.#log);
    this.#server = this.#createServer();
    this.#tellStaple();
  }

  get url(): string {
    return this.#url;
  }

  get acmePort(): number | undefined {
    return this.#acmePort;
  }

  /** Reads configuration and files again; what is not usable changes nothing. */
  reload(): Promise<void> {
    return (this.#reloading = this.#reloading.then(() => this.#reload()));
  }

  /** Takes a site that has registered with another process. */
  learn(site: Registered): void {
    if (this.#keepKnown(site)) this.#showSites();
  }

  /** A connection that another process has accepted. */
  take(socket: Socket): void {
    this.#server.emit('connection', socket);
  }

  /** Requests under way may finish; nothing new is taken. Closing twice is fine. */
  close(): Promise<void> {
    return (this.#closing ??= this.#drain().finally(() => this.#scope.close()));
  }

  /** @throws {@link GatewayError} `CONFLICT`, as {@link #keep} does */
  #register(site: Registered): string {
    const key = this.#keep(site);
    this.#showSites();
    return key;
  }

  #keepKnown(site: Registered): boolean {
    try {
      this.#keep(site);
      return true;
    } catch (err) {
      this.#log.warn({ vsite: site.name, err }, 'site registered elsewhere, not here');
      return false;
    }
  }

  /**
   * Remembers a site that has registered, in place of an earlier one of that name.
   * @returns under which key
   * @throws {@link GatewayError} `CONFLICT` for the name of what the configuration has elsewhere
   */
  #keep(site: Registered): string {
    const { sites, apiTokens } = this.#settings.config;
    if (apiTokens && keyOf(site) === tokensPath)
      throw new GatewayError('CONFLICT', `name: ${tokensPath} is no site here`);
    const configured = Object.entries(sites).find(([name]) => keyOf({ name }) === keyOf(site))?.[1];
    if (typeof configured === 'string' && configured.replace(/\/+$/, '') !== site.address)
      throw new GatewayError('CONFLICT', 'name: a site of the configuration has it');
    // Addresses of a group add up; an earlier one of any other site gives way
    const key = typeof configured === 'object' ? `${keyOf(site)} ${site.address}` : keyOf(site);
    if (this.#registered.size >= mostRegistered && !this.#registered.has(key))
      throw new GatewayError('CONFLICT', 'too many sites have registered');
    const before = this.#registered.get(key);
    this.#registered.set(key, site);
    if (before?.address !== site.address)
      this.#log.info({ vsite: site.name, address: site.address }, 'site registered');
    return key;
  }

  #showSites(): void {
    this.#sites.replace(siteOptions(this.#settings, [...this.#registered.values()]));
  }

  #createServer(): ClientServer {
    const { tls, config } = this.#settings;
    const { limits } = config;
    const server = createServer({
      ...tls,
      handshakeTimeout: limits.headSeconds * 1000,
      headersTimeout: limits.headSeconds * 1000,
      keepAliveTimeout: limits.keepAliveSeconds * 1000,
      // A whole upload may take hours: slow clients are found by what they move
      requestTimeout: 0,
      connectionsCheckingInterval: Math.min(5_000, limits.headSeconds * 250),
      maxHeaderSize: limits.headerBytes,
      IncomingMessage: TunnelRequest,
      ServerResponse: ClientResponse,
    });
    this.#connections.watch(server);
    const handle = (request: IncomingMessage, response: ClientResponse): void =>
      this.#router.handle(request, response);
    server.on('request', handle).on('checkContinue', handle);
    server.on('upgrade', (request, socket, head) => this.#router.upgrade(request, socket, head));
    server.on('clientError', answerBrokenRequest);
    server.on('tlsClientError', (err, socket) => {
      this.#log.debug({ err }, 'TLS handshake failed');
      // Node leaves it open, also after `handshakeTimeout`; an answer could never be sent
      socket.destroy();
    });
    server.on('secureConnection', (socket) => this.#clients.meet(socket));
    server.on(
      'OCSPRequest',
      (_certificate, _issuer, answer: (error: Error | null, response: Buffer | null) => void) =>
        answer(null, this.#stapled()),
    );
    return server;
  }

  #tellStaple(): void {
    const { staple, config } = this.#settings;
    if (typeof staple !== 'string') return;
    const path = config.tls.ocspFile;
    this.#log.warn({ path, reason: staple }, 'nothing is stapled to the certificate');
  }

  /** Clients end the connection for one that is not as it should be: rather none. */
  #stapled(): Buffer | null {
    const { staple } = this.#settings;
    if (staple === undefined || typeof staple === 'string') return null;
    return systemClock.now() < staple.untilMs ? staple.response : null;
  }

  async #open(version: string): Promise<void> {
    const { config } = this.#settings;
    const { limits, acme, listen: where } = config;
    this.#scope.defer(() => this.#sites.close());
    const windowMs = limits.slowSeconds * 500;
    const sweep = setInterval(
      () => this.#router.endSlow((limits.minBytesPerSecond * windowMs) / 1000),
      windowMs,
    );
    sweep.unref();
    this.#scope.defer(() => clearInterval(sweep));
    this.#watchSilence();
    this.#scope.defer(() => clearTimeout(this.#silence));
    if (acme?.httpPort !== undefined) {
      const server = createAcmeServer(() => this.#settings.acmeDir);
      this.#scope.defer(() => void server.close());
      this.#acmePort = await listen(server, { host: where.host, port: acme.httpPort }, this.#log);
    }
    this.#url = urlOf(where.host, await this.#listen());
    const stop = watchPaths(
      () => watchedPaths(this.#settings.config, this.#deps.configFile),
      () => this.reload(),
      config.reloadSeconds * 1000,
      version,
    );
    this.#scope.defer(stop);
    const names = this.#sites.all().map(({ name }) => name);
    this.#log.info({ url: this.#url, sites: names }, 'gateway listens');
  }

  /** One timer for all sites: one for each request would cost more than the look. */
  #watchSilence(): void {
    const { idleSeconds } = this.#settings.config.upstream;
    this.#silence = setTimeout(() => {
      this.#router.endSilent();
      this.#watchSilence();
    }, idleSeconds * 1_000).unref();
  }

  /** @returns the port */
  async #listen(): Promise<number> {
    const { fd, listensElsewhere } = this.#deps;
    const { listen: where } = this.#settings.config;
    if (listensElsewhere === undefined)
      return await listen(this.#server, fd === undefined ? where : { ...where, fd }, this.#log);
    // Node begins to watch for slow clients with this event
    this.#server.emit('listening');
    return listensElsewhere;
  }

  async #reload(): Promise<void> {
    const { configFile } = this.#deps;
    try {
      const { config } = this.#settings;
      const next = configFile === undefined ? config : await loadConfig(configFile, GatewayConfig);
      this.#apply(await loadSettings(next, this.#ticketSecret));
      this.#log.info({ sites: this.#sites.all().length }, 'configuration read again');
    } catch (err) {
      this.#log.error({ err }, 'configuration not usable, the last good one stays in force');
    }
  }

  #apply(next: Settings): void {
    const sameTrust = next.trustVersion === this.#settings.trustVersion;
    this.#server.setSecureContext(next.tls);
    if (!sameTrust || next.config.proxies.join() !== this.#settings.config.proxies.join())
      this.#clients = new Clients(next.proxies);
    this.#settings = next;
    this.#tellStaple();
    this.#showSites();
    if (sameTrust) return;
    // Whoever is believed no more was let in by a handshake of before
    this.#router.endConnections();
    this.#server.closeIdleConnections();
  }

  /** No new connections; what is under way gets its time, then its end. */
  async #drain(): Promise<void> {
    const { drainSeconds, lastRequestSeconds } = this.#settings.config.limits;
    const server = this.#server;
    // Not server.close(), which cuts off connections at rest: a request may be on its way in them
    NetServer.prototype.close.call(server);
    const ended = this.#connections.whenNone();
    let timer: NodeJS.Timeout | undefined;
    const expired = new Promise<void>((resolve) => {
      timer = setTimeout(() => {
        this.#router.endTunnels();
        this.#connections.endAll();
        resolve();
      }, drainSeconds * 1000);
    });
    this.#router.drain();
    let wake: NodeJS.Timeout | undefined;
    const grace = new Promise((resolve) => (wake = setTimeout(resolve, lastRequestSeconds * 1000)));
    await Promise.race([ended, grace]);
    clearTimeout(wake);
    await Promise.race([this.#router.whenIdle(), expired]);
    // Tunnels have no end of their own to wait for
    this.#router.endTunnels();
    server.close();
    await ended;
    clearTimeout(timer);
  }
}

function keyOf({ name }: { name: string }): string {
  return name.toLowerCase();
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
    `Content-Length: ${body.length}`,
  ];
  for (let at = 0; at + 1 < errorHeaders.length; at += 2)
    head.push(`${errorHeaders[at]}: ${errorHeaders[at + 1]}`);
  socket.end(`${head.join('\r\n')}\r\n\r\n${body}`, () => socket.destroy());
}
