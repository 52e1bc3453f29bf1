import type { ClientRequest, IncomingMessage } from 'node:http';
import { TLSSocket } from 'node:tls';
import { hasBody } from '#kernel/http/upgrade.js';
import { isUnreached, type Backend } from './backend.js';
import { bodyTooLarge, Exchange } from './exchange.js';
import { keepResponseHeaders } from './headers.js';
import type { GatewayError } from './reply.js';

const repeatable = new Set(['GET', 'HEAD', 'OPTIONS']);

/**
 * With a site behind a connection: both ways are streamed, each side as fast as the other takes it. Wired by hand
 * instead of by `pipeline()`: the flow has to be seen (bytes, who waits for whom), and a request should cost few
 * listeners.
 */
export class Relay extends Exchange {
  readonly #tried = new Set<Backend>();
  #repeated = false;
  #upstream: ClientRequest | undefined;
  #answer: IncomingMessage | undefined;
  #stalled = false;
  #uploaded = 0;

  protected override begin(): void {
    this.response.on('drain', () => {
      this.#stalled = false;
      this.#answer?.resume();
    });
    this.#send(this.facts.backend);
  }

  protected override get contentType(): string | undefined {
    return this.#answer?.headers['content-type'];
  }

  protected override endAnswer(): void {
    this.#answer?.removeAllListeners('data');
    this.response.end();
  }

  protected override get waitsForBody(): boolean {
    return !this.request.complete && this.#upstream?.writableNeedDrain === false && !this.#answer;
  }

  protected override get isStalled(): boolean {
    return this.#stalled;
  }

  protected override leaveSite(): void {
    if (!this.request.complete || !this.#answer?.complete) this.#upstream?.destroy();
  }

  protected override refuseBy(error: GatewayError): void {
    super.refuseBy(error);
    this.#upstream?.destroy();
  }

  #send(backend: Backend): void {
    const { request } = this;
    const { path, headersFor } = this.facts;
    this.#tried.add(backend);
    const upstream = backend.request(request.method ?? 'GET', path, headersFor);
    this.#upstream = upstream;
    upstream.on('response', (answer) => this.#relay(answer));
    upstream.on('error', (err) => {
      const next = this.#answer || this.isClosed ? undefined : this.#nextAfter(upstream, err);
      if (next) this.#send(next);
      else this.#lose(err);
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

  /** Who is asked next, if the site certainly has not begun on this request, or may be asked twice. */
  #nextAfter(upstream: ClientRequest, err: Error): Backend | undefined {
    const { request } = this;
    const { site } = this.facts;
    if (isUnreached(err)) return site.another(this.#tried);
    // The site may close an idle connection just when we use it
    if (this.#repeated || !upstream.reusedSocket) return undefined;
    if (!repeatable.has(request.method ?? '') || hasBody(request)) return undefined;
    this.#repeated = true;
    return site.pick();
  }

  #upload(upstream: ClientRequest): void {
    const { request } = this;
    let continued = request.headers.expect === undefined;
    upstream.on('continue', () => {
      continued = true;
      if (!this.response.headersSent) this.response.writeContinue();
    });
    // A client that was not told to send its body may leave it out: no next request fits behind
    upstream.once('response', () => (this.response.shouldKeepAlive &&= continued));
    upstream.on('drain', () => request.resume());
    const { maxBodyBytes = Infinity } = this.facts;
    request.on('data', (chunk: Buffer) => {
      this.#uploaded += chunk.length;
      if (this.#uploaded > maxBodyBytes) this.refuse(bodyTooLarge(maxBodyBytes));
      else if (!upstream.destroyed && !upstream.write(chunk)) request.pause();
    });
    request.on('end', () => upstream.end());
  }

  #relay(answer: IncomingMessage): void {
    const { response } = this;
    this.#answer = answer;
    if (this.isClosed) {
      answer.destroy();
      return;
    }
    const { own, ownsCors } = this.facts;
    const headers = keepResponseHeaders(answer.rawHeaders, answer.headers.connection, { ownsCors });
    headers.push(...own);
    try {
      response.writeHead(answer.statusCode ?? 502, answer.statusMessage, headers);
    } catch (error) {
      // Our parser is more tolerant than our writer, which has kept the text by now
      response.statusMessage = '';
      answer.destroy(error instanceof Error ? error : undefined);
      this.fail(error);
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
    if (!this.#answer?.complete) this.fail(err);
  }
}

function whenConnected(upstream: ClientRequest, run: () => void): void {
  upstream.once('socket', (socket) => {
    if (!socket.connecting) run();
    else socket.once(socket instanceof TLSSocket ? 'secureConnect' : 'connect', run);
  });
}
