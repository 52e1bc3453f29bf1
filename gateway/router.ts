import { randomUUID } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Duplex } from 'node:stream';
import { foreignPageOf } from '#kernel/http/foreign-pages.js';
import { responseAfterUpgrade } from '#kernel/http/upgrade.js';
import { Bag } from '#kernel/bag.js';
import type { Log } from '#kernel/log.js';
import { acmeToken, sendAcmeToken } from './acme.js';
import { isForGenerator, TokenGenerator } from './api-tokens/generator.js';
import type { ClientResponse } from './client-response.js';
import type { Client, Clients } from './clients.js';
import { bodyTooLarge, type Exchange } from './exchange.js';
import type { Exchanged } from './exchange-metrics.js';
import { sendFrontPage } from './front-page.js';
import { HandOver } from './hand-over.js';
import { isHost, keepRequestHeaders, type HeadersFor } from './headers.js';
import { readRegistration, registrationPath, type Registered } from './registration.js';
import { Relay } from './relay.js';
import { GatewayError, ownHeaders, sendBody, sendError } from './reply.js';
import type { Settings } from './settings.js';
import type { Site, SiteTable } from './site.js';
import { parseTarget, type Target } from './target.js';
import { openTunnel } from './tunnel.js';

export type RouterDeps = {
  /** Those that count now. */
  settings: () => Settings;
  clients: () => Clients;
  sites: SiteTable;
  /** @throws {@link GatewayError} `CONFLICT` */
  register: (site: Registered) => void;
  log: Log;
  onExchanged?: ((exchanged: Exchanged) => void) | undefined;
};

type Asked = {
  readonly reqId: string;
  readonly client: Client;
  readonly settings: Settings;
  /** Headers of whatever answer. */
  own: readonly string[];
  /** A page of another origin sends it, and may. */
  isVouchedFor?: boolean;
  site?: Site;
  exchange?: Exchange;
};

const mostHeaders = 500;
const methods = new Set(['GET', 'HEAD', 'POST', 'PUT', 'DELETE', 'OPTIONS']);

/** Sends each request to its site, or answers it here. */
export class Router {
  readonly #deps: RouterDeps;
  readonly #log: Log;
  readonly #exchanges = new Bag<Exchange>();
  readonly #tunnels = new Set<Duplex>();
  /** Answers to come on each connection. */
  readonly #answers = new WeakMap<Duplex, Bag<ServerResponse>>();
  readonly #generator: TokenGenerator;
  #underWay = 0;
  #draining = false;
  #idle: (() => void)[] = [];

  constructor(deps: RouterDeps) {
    this.#deps = deps;
    this.#log = deps.log;
    this.#generator = new TokenGenerator({ enter: (name) => this.#enter(name), log: deps.log });
  }

  handle(request: IncomingMessage, response: ClientResponse): void {
    const startedAt = performance.now();
    const asked = this.#ask(request);
    // Of a connection that is cut off Node would say so, too
    let whole = false;
    response.on('finish', () => (whole = !request.socket.destroyed));
    const { method, url } = request; // before a site gets it, with another address
    this.#underWay++;
    if (this.#draining || asked.client.outdated) response.shouldKeepAlive = false;
    const answers = this.#answersOn(request.socket);
    answers.add(response);
    response.once('close', () => {
      const { reqId, client, exchange } = asked;
      answers.delete(response);
      this.#leave(asked);
      const { statusCode: status } = response;
      const ms = Math.round((performance.now() - startedAt) * 100) / 100;
      const bytes = exchange?.bytes;
      const vsite = asked.site?.name;
      const { peer, dn } = client;
      const path = loggedPath(url);
      this.#log.info({ reqId, peer, dn, method, path, status, vsite, ms, bytes, whole }, 'request');
      this.#deps.onExchanged?.({ site: vsite, status, ms, bytes: bytes ?? 0 });
    });
    this.#orRefuse(response, asked, () => this.#dispatch(request, response, asked));
  }

  upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void {
    const asked = this.#ask(request);
    const { client, reqId, own } = asked;
    this.#tunnels.add(socket);
    socket.on('error', () => socket.destroy());
    socket.once('close', () => this.#tunnels.delete(socket));
    const response = () => responseAfterUpgrade(request);
    this.#orRefuse(response, asked, () => {
      const target = parseRequest(request, client);
      const site = this.#enter(target.site);
      socket.once('close', () => site.leave());
      const facts = { site, backend: site.pick(), path: target.path, own };
      openTunnel(request, socket, head, { ...facts, headersFor: headersFor(request, asked, site) });
      const { peer, dn } = client;
      const { upgrade: protocol } = request.headers;
      this.#log.info({ reqId, peer, dn, vsite: site.name, protocol }, 'upgrade');
    });
  }

  /** Ends exchanges whose client moved less than this since the last call. */
  endSlow(minBytes: number): void {
    for (const exchange of this.#exchanges) exchange.endIfSlow(minBytes);
  }

  /** Ends exchanges whose site has said nothing since the call before. */
  endSilent(): void {
    for (const exchange of this.#exchanges) exchange.endIfSilent();
  }

  /** No request follows those under way on their connections. */
  endConnections(): void {
    for (const exchange of this.#exchanges) exchange.isLast();
  }

  /** Tells clients to go, from now on. */
  drain(): void {
    this.#draining = true;
    this.endConnections();
    for (const exchange of this.#exchanges) exchange.endStream();
  }

  /** Resolves when no request is under way. */
  async whenIdle(): Promise<void> {
    if (this.#underWay > 0) await new Promise<void>((resolve) => this.#idle.push(resolve));
  }

  endTunnels(): void {
    for (const socket of this.#tunnels) socket.destroy();
  }

  #ask(request: IncomingMessage): Asked {
    const reqId = randomUUID();
    const settings = this.#deps.settings();
    return { reqId, settings, client: this.#deps.clients().at(request), own: ownHeaders(reqId) };
  }

  /** Of an answer that waits behind another one's Node does not tell that its connection has ended. */
  #answersOn(socket: Duplex): Bag<ServerResponse> {
    const known = this.#answers.get(socket);
    if (known) return known;
    const answers = new Bag<ServerResponse>();
    this.#answers.set(socket, answers);
    socket.once('close', () => {
      for (const each of answers) each.destroy().emit('close');
    });
    return answers;
  }

  #leave({ site, exchange }: Asked): void {
    this.#underWay--;
    site?.leave();
    if (exchange) {
      this.#exchanges.delete(exchange);
      exchange.finish();
    }
    if (this.#underWay === 0) for (const resolve of this.#idle.splice(0)) resolve();
  }

  #dispatch(request: IncomingMessage, response: ClientResponse, asked: Asked): void {
    const { settings, client, reqId } = asked;
    const cors = settings.cors?.(request);
    if (cors) asked.own = [...asked.own, ...cors.headers];
    const target = parseRequest(request, client);
    if (cors?.isPreflight) {
      response.writeHead(204, [...asked.own]).end();
      return;
    }
    const page = foreignPageOf(request, originFor(request, client));
    if (page !== undefined && !cors?.mayChange)
      throw new GatewayError('FORBIDDEN', `pages of ${page} may not change anything here`);
    asked.isVouchedFor = page !== undefined;
    const local = this.#answerHere(request, response, target, asked);
    if (local) {
      void local.catch((error: unknown) => this.#refuse(response, asked, error));
      return;
    }
    const site = this.#enter(target.site);
    asked.site = site;
    const limits = settings.limitsOf(site.name, target.path);
    const { maxBodyBytes = Infinity } = limits;
    if (Number(request.headers['content-length'] ?? 0) > maxBodyBytes) {
      throw bodyTooLarge(maxBodyBytes);
    }
    const { own } = asked;
    const backend = site.pick();
    const facts = {
      reqId,
      client,
      site,
      backend,
      own,
      path: target.path,
      ownsCors: cors !== undefined,
      maxBodyBytes: limits.maxBodyBytes,
      timeoutMs: limits.timeoutMs,
      headersFor: headersFor(request, asked, site),
    };
    const Way = backend.local && HandOver.fits(request, limits) ? HandOver : Relay;
    const exchange = new Way(request, response, facts, this.#log);
    asked.exchange = exchange;
    this.#exchanges.add(exchange);
    exchange.start();
  }

  /** What is the gateway's own and no site's. */
  #answerHere(
    request: IncomingMessage,
    response: ServerResponse,
    target: Target,
    asked: Asked,
  ): Promise<void> | undefined {
    const { settings, own } = asked;
    const { sites } = this.#deps;
    if (target.site === '') {
      const isTold = settings.config.frontPage === 'sites';
      const facts = {
        sites: isTold ? sites : undefined,
        givesTokens: settings.apiTokens !== undefined,
      };
      return sendFrontPage(request, response, facts, own);
    }
    const isSite = () => sites.find(target.site) !== undefined;
    if (settings.apiTokens && isForGenerator(target, request.method, isSite)) {
      const { client, reqId, isVouchedFor = false } = asked;
      const facts = { reqId, peer: client.peer, origin: originFor(request, client) };
      // no page of another origin is to read the answer, whatever `cors` says
      const about = { ...facts, isForeign: isVouchedFor, own: ownHeaders(reqId) };
      return this.#generator.answer(request, response, target, about, settings.apiTokens);
    }
    if (target.site === registrationPath && request.method === 'POST') {
      return this.#register(request, response, settings, own);
    }
    const token = settings.acmeDir === undefined ? undefined : acmeToken(target);
    if (token === undefined || settings.acmeDir === undefined) return undefined;
    return sendAcmeToken(response, settings.acmeDir, token, own);
  }

  async #register(
    request: IncomingMessage,
    response: ServerResponse,
    { registration }: Settings,
    own: readonly string[],
  ): Promise<void> {
    if (!registration) throw new GatewayError('FORBIDDEN', 'registration is disabled');
    const site = await readRegistration(request, registration);
    this.#deps.register(site);
    const html = `<!doctype html><title>Registered</title><p>Site ${site.name} is registered.</p>\n`;
    sendBody(response, 201, ['Content-Type', 'text/html; charset=utf-8', ...own], html);
  }

  #enter(name: string): Site {
    const site = this.#deps.sites.find(name);
    if (!site) throw new GatewayError('NOT_FOUND', 'no such site', { name });
    if (site.isFull) {
      throw new GatewayError('SITE_UNAVAILABLE', `site ${site.name} is busy, try again`);
    }
    site.active++;
    site.requests++;
    return site;
  }

  #orRefuse(
    response: ServerResponse | (() => ServerResponse),
    asked: Asked,
    run: () => void,
  ): void {
    try {
      run();
    } catch (thrown) {
      this.#refuse(typeof response === 'function' ? response() : response, asked, thrown);
    }
  }

  /** A refusal ends its connection: what else is in it was not looked at. */
  #refuse(response: ServerResponse, { reqId, client, own }: Asked, thrown: unknown): void {
    const known = thrown instanceof GatewayError;
    if (!known && response.destroyed) this.#log.debug({ reqId, err: thrown }, 'client left');
    else if (!known) this.#log.error({ reqId, err: thrown }, 'request failed unexpectedly');
    else if (thrown.code === 'FORBIDDEN')
      this.#log.warn({ reqId, peer: client.peer, reason: thrown.message }, 'refused');
    response.shouldKeepAlive = false;
    const error = known ? thrown : new GatewayError('INTERNAL', 'internal error');
    sendError(response, error, own);
  }
}

/** @throws {@link GatewayError} for what no site shall see */
function parseRequest(request: IncomingMessage, client: Client): Target {
  const { method = '', url = '', headers, rawHeaders } = request;
  if (client.refused !== undefined) {
    const reason = `client certificate refused: ${client.refused}`;
    throw new GatewayError('UNAUTHENTICATED', reason);
  }
  // Beyond a thousand Node leaves them out of `headers`, and we would lose sight of the body's length
  if (rawHeaders.length > 2 * mostHeaders)
    throw new GatewayError('BAD_REQUEST', 'too many headers');
  if (!methods.has(method))
    throw new GatewayError('METHOD_NOT_ALLOWED', `${method} is not allowed`);
  if (headers.host !== undefined && !isHost(headers.host)) {
    throw new GatewayError('BAD_REQUEST', 'malformed Host header');
  }
  const coding = headers['transfer-encoding'];
  if (coding !== undefined && coding.toLowerCase() !== 'chunked') {
    throw new GatewayError('NOT_IMPLEMENTED', 'this transfer coding is not supported');
  }
  const target = parseTarget(url);
  if (!target) throw new GatewayError('BAD_REQUEST', 'malformed path');
  if (target.site === '' && method !== 'GET' && method !== 'HEAD') {
    throw new GatewayError('METHOD_NOT_ALLOWED', `${method} is not allowed here`);
  }
  return target;
}

function headersFor(
  request: IncomingMessage,
  { client, reqId, settings, isVouchedFor = false }: Asked,
  site: Site,
): HeadersFor {
  const { headers, rawHeaders } = request;
  const { peer, name } = client;
  const kept = keepRequestHeaders(rawHeaders, headers.connection, { isVouchedFor });
  const gateway = `${originFor(request, client)}/${site.name}`;
  const added = ['X-UNICORE-Gateway', gateway, 'X-UNICORE-Consignor-IP', peer, 'X-Request-Id', reqId]; // prettier-ignore
  if (headers['transfer-encoding'] !== undefined) added.push('Transfer-Encoding', 'chunked');
  return (method, target) => ({
    kept,
    added: name ? [...added, ...settings.consign(name, { method, target, peer, gateway })] : added,
  });
}

/** What the client calls us. */
function originFor({ headers: { host }, socket }: IncomingMessage, { origin }: Client): string {
  return origin ?? `https://${host ?? `localhost:${socket.localPort ?? 443}`}`;
}

const capability = /\/rest\/(?:files|access)\//i;

/** Queries may hold tokens, some addresses are a capability: both stay out of the log, however they are spelt. */
function loggedPath(url = ''): string {
  const [path = ''] = url.split('?', 1);
  const { path: below = path } = parseTarget(path) ?? {};
  return capability.test(`${decoded(path)}\n${decoded(below)}`) ? '…/rest/…' : path;
}

function decoded(path: string): string {
  if (!path.includes('%')) return path;
  try {
    return decodeURIComponent(path);
  } catch {
    return path;
  }
}
