import type { ClientRequest, IncomingMessage, ServerResponse } from 'node:http';
import { TLSSocket } from 'node:tls';
import { hasBody } from '#kernel/http/upgrade.js';
import type { Log } from '#kernel/log.js';
import type { Client } from './clients.js';
import { isUnreached, type HeadersFor } from './backend.js';
import { keepResponseHeaders, type RawHeaders } from './headers.js';
import { GatewayError, sendError } from './reply.js';
import type { Site } from './site.js';

export type ExchangeFacts = {
  readonly reqId: string;
  readonly client: Client;
  readonly site: Site;
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
const repeatable = new Set(['GET', 'HEAD', 'OPTIONS']);

/**
 * One request on its way to a site and its answer on the way back, both streamed, each side as fast as
 * the other takes it. Wired by hand instead of by `pipeline()`: the flow has to be seen (bytes, who waits for
 * whom), and a request should cost few listeners.
 */
export class Exchange {
  /** Bytes of the answer's body so far. */
  bytes = 0;
  readonly #request: IncomingMessage;
  readonly #response: ServerResponse;
  readonly #facts: ExchangeFacts;
  readonly #log: Log;
  #upstream: ClientRequest | undefined;
  #answer: IncomingMessage | undefined;
  /** The client does not take what we have for it. */
  #stalled = false;
  #closed = false;
  #failed = false;
  #uploaded = 0;
  #timer: NodeJS.Timeout | undefined;
  #seen = { read: 0, written: 0, waited: false };

  constructor(request: IncomingMessage, response: ServerResponse, facts: ExchangeFacts, log: Log) {
    this.#request = request;
    this.#response = response;
    this.#facts = facts;
    this.#log = log;
  }

  start(): void {
    const response = this.#response;
    response.on('drain', () => {
      this.#stalled = false;
      this.#answer?.resume();
    });
    response.once('close', () => this.#finish());
    const { timeoutMs } = this.#facts;
    if (timeoutMs !== undefined) this.#timer = setTimeout(() => this.#expire(timeoutMs), timeoutMs);
    this.#send(true);
  }

  /** A stream of events has no end of its own to wait for; its client comes again. */
  endStream(): void {
    if (!/^text\/event-stream\b/.test(this.#answer?.headers['content-type'] ?? '')) return;
    this.#answer?.removeAllListeners('data');
    this.#response.end();
  }

  /** Nothing shall follow on this connection. */
  isLast(): void {
    this.#response.shouldKeepAlive = false;
  }

  #send(mayRepeat: boolean): void {
    const { site, path, headersFor } = this.#facts;
    const request = this.#request;
    const upstream = site.request(request.method ?? 'GET', path, headersFor);
    this.#upstream = upstream;
    upstream.on('response', (answer) => this.#relay(answer));
    upstream.on('error', (err) => {
      if (mayRepeat && !this.#answer && !this.#closed && this.#isLost(upstream, err)) {
        this.#send(false);
      } else this.#lose(err);
    });
    // Also what is no error to Node, an upgrade that nobody asked for say
    upstream.on('close', () => {
      // An error costs a stack trace, and each request ends so
      if (this.#upstream === upstream && !this.#answer?.complete)
        this.#lose(new Error('the site hung up'));
    });
    upstream.on('timeout', () => {
      if (!this.#stalled) upstream.destroy(new Error('the site is silent'));
    });
    if (!hasBody(request)) upstream.end();
    // Not before there is somebody to take it: what was read cannot be sent again to another server
    else whenConnected(upstream, () => this.#upload(upstream));
  }

  /** Whether the site certainly has not begun on this request, or may be asked twice. */
  #isLost(upstream: ClientRequest, err: Error): boolean {
    if (isUnreached(err)) return this.#facts.site.hasOther;
    // The site may close an idle connection just when we use it
    const request = this.#request;
    return upstream.reusedSocket && repeatable.has(request.method ?? '') && !hasBody(request);
  }

  #upload(upstream: ClientRequest): void {
    const request = this.#request;
    let continued = request.headers.expect === undefined;
    upstream.on('continue', () => {
      continued = true;
      if (!this.#response.headersSent) this.#response.writeContinue();
    });
    // A client that was not told to send its body may leave it out: no next request fits behind
    upstream.once('response', () => (this.#response.shouldKeepAlive &&= continued));
    upstream.on('drain', () => request.resume());
    const { maxBodyBytes = Infinity } = this.#facts;
    request.on('data', (chunk: Buffer) => {
      this.#uploaded += chunk.length;
      if (this.#uploaded > maxBodyBytes) this.#refuse(bodyTooLarge(maxBodyBytes));
      else if (!upstream.destroyed && !upstream.write(chunk)) request.pause();
    });
    request.on('end', () => upstream.end());
  }

  #relay(answer: IncomingMessage): void {
    const response = this.#response;
    this.#answer = answer;
    if (this.#closed) {
      answer.destroy();
      return;
    }
    const { own, ownsCors } = this.#facts;
    const headers = keepResponseHeaders(answer.rawHeaders, answer.headers.connection, { ownsCors });
    headers.push(...own);
    try {
      response.writeHead(answer.statusCode ?? 502, answer.statusMessage, headers);
    } catch (error) {
      // Our parser is more tolerant than our writer, which has kept the text by now
      response.statusMessage = '';
      answer.destroy(error instanceof Error ? error : undefined);
      this.#fail(error);
      return;
    }
    answer.on('data', (chunk: Buffer) => {
      this.bytes += chunk.length;
      if (!response.write(chunk)) {
        this.#stalled = true;
        answer.pause();
      }
    });
    answer.on('end', () => response.end());
    answer.on('error', (err) => this.#lose(err));
  }

  /** The connection to the site is gone; once we have the whole answer that is no matter. */
  #lose(err: Error): void {
    if (!this.#answer?.complete) this.#fail(err);
  }

  #fail(err: unknown): void {
    const { reqId, site } = this.#facts;
    if (this.#closed || this.#failed) return;
    this.#log.warn({ reqId, vsite: site.name, err }, 'site failed');
    this.#refuse(
      new GatewayError('SITE_UNAVAILABLE', `site ${site.name} is not available at the moment`),
    );
  }

  /** Ends the exchange from our side. */
  #refuse(error: GatewayError): void {
    if (this.#closed || this.#failed) return;
    this.#failed = true;
    if (!this.#request.complete) this.isLast();
    sendError(this.#response, error, this.#facts.own);
    this.#upstream?.destroy();
  }

  #expire(timeoutMs: number): void {
    const { reqId, site } = this.#facts;
    this.#log.warn({ reqId, vsite: site.name }, 'request took too long');
    this.#refuse(
      new GatewayError('SITE_UNAVAILABLE', `not finished within ${timeoutMs / 1_000} seconds`),
    );
  }

  /** The client has its answer, or has gone. */
  #finish(): void {
    this.#closed = true;
    clearTimeout(this.#timer);
    const request = this.#request;
    if (!request.complete || !this.#answer?.complete) this.#upstream?.destroy();
    if (request.complete || request.destroyed) return;
    request.resume();
    setTimeout(() => {
      if (!request.complete) request.socket.destroy();
    }, lingerMs).unref();
  }

  /**
   * To be called at regular intervals. Ends the exchange if in two calls on end we waited for the
   * client and it moved less than `minBytes` in between.
   */
  endIfSlow(minBytes: number): void {
    const { socket } = this.#request;
    const read = socket.bytesRead;
    const written = socket.bytesWritten - socket.writableLength;
    const waitsForBody =
      !this.#request.complete && this.#upstream?.writableNeedDrain === false && !this.#answer;
    const waited = waitsForBody || this.#stalled || socket.writableLength > 0;
    const moved = read - this.#seen.read + (written - this.#seen.written);
    const slow = waited && this.#seen.waited && moved < minBytes;
    this.#seen = { read, written, waited };
    if (!slow) return;
    const { reqId, client } = this.#facts;
    this.#log.info({ reqId, peer: client.peer }, 'client too slow');
    this.#response.destroy();
  }
}

function whenConnected(upstream: ClientRequest, run: () => void): void {
  upstream.once('socket', (socket) => {
    if (!socket.connecting) run();
    else socket.once(socket instanceof TLSSocket ? 'secureConnect' : 'connect', run);
  });
}

export function bodyTooLarge(maxBytes: number): GatewayError {
  return new GatewayError('TOO_LARGE', `the body may have ${maxBytes} bytes here`);
}
