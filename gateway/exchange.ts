import type { IncomingMessage } from 'node:http';
import type { Log } from '#kernel/log.js';
import type { Backend } from './backend.js';
import type { ClientResponse } from './client-response.js';
import type { Client } from './clients.js';
import type { HeadersFor, RawHeaders } from './headers.js';
import { GatewayError, sendError } from './reply.js';
import type { Site } from './site.js';

export type ExchangeFacts = {
  readonly reqId: string;
  readonly client: Client;
  readonly site: Site;
  /** The first of its servers to be asked. */
  readonly backend: Backend;
  readonly path: string;
  /** What the site gets to see. */
  readonly headersFor: HeadersFor;
  /** The gateway's own headers on the answer. */
  readonly own: RawHeaders;
  /** The gateway, not the site, tells browsers which pages may ask. */
  readonly ownsCors: boolean;
  readonly maxBodyBytes?: number | undefined;
  /** For all of it. */
  readonly timeoutMs?: number | undefined;
};

/** How long the rest of an upload is read after the answer, so that the client gets to see it. */
const lingerMs = 15_000;

/**
 * One request on its way to a site and its answer on the way back: what holds for all of them, wherever the site
 * is. A subclass knows how to reach it.
 */
export abstract class Exchange {
  /** Bytes of the answer's body so far. */
  bytes = 0;
  protected readonly request: IncomingMessage;
  protected readonly response: ClientResponse;
  protected readonly facts: ExchangeFacts;
  protected isClosed = false;
  readonly #log: Log;
  #failed = false;
  #timer: NodeJS.Timeout | undefined;
  #seen = { read: 0, written: 0, waited: false };

  constructor(request: IncomingMessage, response: ClientResponse, facts: ExchangeFacts, log: Log) {
    this.request = request;
    this.response = response;
    this.facts = facts;
    this.#log = log;
  }

  start(): void {
    const { timeoutMs } = this.facts;
    if (timeoutMs !== undefined) this.#timer = setTimeout(() => this.#expire(timeoutMs), timeoutMs);
    this.begin();
  }

  /** To be called when the client has its answer, or has gone. */
  finish(): void {
    this.isClosed = true;
    clearTimeout(this.#timer);
    this.leaveSite();
    const { request } = this;
    if (request.complete || request.destroyed) return;
    request.resume();
    setTimeout(() => {
      if (!request.complete) request.socket.destroy();
    }, lingerMs).unref();
  }

  /** A stream of events has no end of its own to wait for; its client comes again. */
  endStream(): void {
    if (/^text\/event-stream\b/.test(this.contentType ?? '')) this.endAnswer();
  }

  /** Nothing shall follow on this connection. */
  isLast(): void {
    this.response.shouldKeepAlive = false;
  }

  /**
   * To be called at regular intervals. Ends the exchange if in two calls on end we waited for the
   * client and it moved less than `minBytes` in between.
   */
  endIfSlow(minBytes: number): void {
    const { socket } = this.request;
    const read = socket.bytesRead;
    const written = socket.bytesWritten - socket.writableLength;
    const waited = this.waitsForBody || this.isStalled || socket.writableLength > 0;
    const moved = read - this.#seen.read + (written - this.#seen.written);
    const slow = waited && this.#seen.waited && moved < minBytes;
    this.#seen = { read, written, waited };
    if (!slow) return;
    const { reqId, client } = this.facts;
    this.#log.info({ reqId, peer: client.peer }, 'client too slow');
    socket.destroy();
  }

  /** To be called at regular intervals, of which the site may be silent for one or two. */
  endIfSilent(): void {
    // with a site behind a connection that is the connection's to find out
  }

  /** Asks the site. */
  protected abstract begin(): void;
  /** Of the answer, once it has begun. */
  protected abstract readonly contentType: string | undefined;
  /** Ends an answer that has begun as if it were whole. */
  protected abstract endAnswer(): void;
  /** The site would take more of the client's body. */
  protected abstract readonly waitsForBody: boolean;
  /** The client does not take what we have for it. */
  protected abstract readonly isStalled: boolean;
  /** Of the exchange that is over. */
  protected abstract leaveSite(): void;
  /** Answers instead of the site. */
  protected refuseBy(error: GatewayError): void {
    sendError(this.response, error, this.facts.own);
  }

  /** The site has failed. */
  protected fail(err: unknown): void {
    const { reqId, site } = this.facts;
    if (this.isClosed || this.#failed) return;
    this.#log.warn({ reqId, vsite: site.name, err }, 'site failed');
    this.refuse(
      new GatewayError('SITE_UNAVAILABLE', `site ${site.name} is not available at the moment`),
    );
  }

  /** Ends the exchange from our side. */
  protected refuse(error: GatewayError): void {
    if (this.isClosed || this.#failed) return;
    this.#failed = true;
    if (!this.request.complete) this.isLast();
    this.refuseBy(error);
  }

  #expire(timeoutMs: number): void {
    const { reqId, site } = this.facts;
    this.#log.warn({ reqId, vsite: site.name }, 'request took too long');
    this.refuse(
      new GatewayError('SITE_UNAVAILABLE', `not finished within ${timeoutMs / 1_000} seconds`),
    );
  }
}

export function bodyTooLarge(maxBytes: number): GatewayError {
  return new GatewayError('TOO_LARGE', `the body may have ${maxBytes} bytes here`);
}
