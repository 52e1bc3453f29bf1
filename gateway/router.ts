import { randomUUID } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Duplex } from 'node:stream';
import type { Log } from '#kernel/log.js';
import type { Client, Clients } from './clients.js';
import { Exchange } from './exchange.js';
import { sendFrontPage } from './front-page.js';
import { isHost, keepRequestHeaders } from './headers.js';
import { GatewayError, sendError } from './reply.js';
import type { Site, SiteTable } from './site.js';
import { parseTarget } from './target.js';
import { checkUpgrade, openTunnel, responseAfterUpgrade } from './tunnel.js';

export type RouterDeps = { sites: SiteTable; clients: Clients; log: Log };

const methods = new Set(['GET', 'HEAD', 'POST', 'PUT', 'DELETE', 'OPTIONS']);

/** Sends each request to its site, or answers it here. */
export class Router {
  readonly #sites: SiteTable;
  readonly #clients: Clients;
  readonly #log: Log;
  readonly #exchanges = new Set<Exchange>();
  readonly #tunnels = new Set<Duplex>();
  #underWay = 0;
  #drained: (() => void) | undefined;

  constructor({ sites, clients, log }: RouterDeps) {
    this.#sites = sites;
    this.#clients = clients;
    this.#log = log;
  }

  handle(request: IncomingMessage, response: ServerResponse): void {
    const startedAt = performance.now();
    const reqId = randomUUID();
    const client = this.#clients.at(request.socket);
    let exchange: Exchange | undefined;
    let site: Site | undefined;
    this.#underWay++;
    if (this.#drained) response.shouldKeepAlive = false;
    response.once('close', () => {
      this.#underWay--;
      if (site) site.active--;
      if (exchange) this.#exchanges.delete(exchange);
      if (this.#underWay === 0) this.#drained?.();
      const { peer, dn } = client;
      const { method, url } = request;
      const { statusCode: status, writableFinished: whole } = response;
      const ms = Math.round((performance.now() - startedAt) * 100) / 100;
      const facts = { reqId, peer, dn, method, path: loggedPath(url), vsite: site?.name, status };
      this.#log.info({ ...facts, ms, bytes: exchange?.bytes, whole }, 'request');
    });
    this.#orRefuse(response, reqId, () => {
      const target = parseRequest(request, client);
      if (target.site === '') {
        void sendFrontPage(request, response, this.#sites, reqId);
        return;
      }
      site = this.#enter(target.site);
      const headers = headersFor(request, client, site, reqId);
      const facts = { reqId, client, site, path: target.path, headers };
      exchange = new Exchange(request, response, facts, this.#log);
      this.#exchanges.add(exchange);
      exchange.start();
    });
  }

  upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void {
    const reqId = randomUUID();
    this.#tunnels.add(socket);
    socket.on('error', () => socket.destroy());
    socket.once('close', () => this.#tunnels.delete(socket));
    this.#orRefuse(
      () => responseAfterUpgrade(request),
      reqId,
      () => {
        const client = this.#clients.at(request.socket);
        const target = parseRequest(request, client);
        const protocol = checkUpgrade(request);
        const site = this.#enter(target.site);
        socket.once('close', () => site.active--);
        const headers = headersFor(request, client, site, reqId);
        openTunnel(request, socket, head, {
          reqId,
          client,
          site,
          path: target.path,
          headers,
          protocol,
        });
        const { peer, dn } = client;
        this.#log.info({ reqId, peer, dn, vsite: site.name, protocol }, 'upgrade');
      },
    );
  }

  /** Ends exchanges whose client moved less than this since the last call. */
  endSlow(minBytes: number): void {
    for (const exchange of this.#exchanges) exchange.endIfSlow(minBytes);
  }

  /** Tells clients to go; resolves when no request is under way. */
  drain(): Promise<void> {
    for (const exchange of this.#exchanges) exchange.isLast();
    return new Promise((resolve) => {
      this.#drained = resolve;
      if (this.#underWay === 0) resolve();
    });
  }

  endTunnels(): void {
    for (const socket of this.#tunnels) socket.destroy();
  }

  #enter(name: string): Site {
    const site = this.#sites.find(name);
    if (!site) throw new GatewayError('NOT_FOUND', 'no such site', { name });
    if (site.active >= site.maxRequests) {
      throw new GatewayError('SITE_UNAVAILABLE', `site ${site.name} is busy, try again`);
    }
    site.active++;
    site.requests++;
    return site;
  }

  /** A refusal ends its connection: what else is in it was not looked at. */
  #orRefuse(
    response: ServerResponse | (() => ServerResponse),
    reqId: string,
    run: () => void,
  ): void {
    try {
      run();
    } catch (thrown) {
      const known = thrown instanceof GatewayError;
      if (!known) this.#log.error({ reqId, err: thrown }, 'request failed unexpectedly');
      const answer = typeof response === 'function' ? response() : response;
      answer.shouldKeepAlive = false;
      const error = known ? thrown : new GatewayError('INTERNAL', 'internal error');
      sendError(answer, error, reqId);
    }
  }
}

/** @throws {@link GatewayError} for what no site shall see */
function parseRequest(request: IncomingMessage, client: Client): { site: string; path: string } {
  const { method = '', url = '', headers } = request;
  if (client.refused !== undefined) {
    const reason = `client certificate refused: ${client.refused}`;
    throw new GatewayError('UNAUTHENTICATED', reason);
  }
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

function headersFor(request: IncomingMessage, client: Client, site: Site, reqId: string): string[] {
  const { headers, rawHeaders, socket } = request;
  const kept = keepRequestHeaders(rawHeaders, headers.connection);
  const host = headers.host ?? `localhost:${socket.localPort ?? 443}`;
  kept.push('X-UNICORE-Gateway', `https://${host}/${site.name}`);
  kept.push('X-UNICORE-Consignor-IP', client.peer, 'X-Request-Id', reqId);
  if (client.consignor !== undefined) kept.push('X-UNICORE-Consignor', client.consignor);
  if (headers['transfer-encoding'] !== undefined) kept.push('Transfer-Encoding', 'chunked');
  return kept;
}

/** Queries may hold tokens, and `/rest/files/…` is a capability: both stay out of the log. */
function loggedPath(url = ''): string {
  const queryAt = url.indexOf('?');
  const path = queryAt < 0 ? url : url.slice(0, queryAt);
  const secretAt = path.indexOf('/rest/files/');
  return secretAt < 0 ? path : `${path.slice(0, secretAt)}/rest/files/…`;
}
