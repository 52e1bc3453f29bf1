import type { IncomingMessage } from 'node:http';
import { hasBody } from '#kernel/http/upgrade.js';
import { Exchange } from './exchange.js';
import { passesToClient, rewriteRequest } from './headers.js';
import type { GatewayError } from './reply.js';
import type { RouteLimits } from './routes.js';

/**
 * With a site in our own process: it is given the client's request and answer themselves. Bytes are not ours to
 * move then; we look at them as they pass.
 */
export class HandOver extends Exchange {
  #silence: NodeJS.Timeout | undefined;
  /** What the client's connection had read when silence began to count. */
  #read = 0;

  /** A body that has to be counted, or whose reader may have to be stopped, goes by a connection. */
  static fits(request: IncomingMessage, { maxBodyBytes, timeoutMs }: RouteLimits): boolean {
    return (maxBodyBytes === undefined && timeoutMs === undefined) || !hasBody(request);
  }

  protected override begin(): void {
    const { request, response } = this;
    const { backend, own, ownsCors, path, headersFor } = this.facts;
    let continued = request.headers.expect === undefined;
    rewriteRequest(request, path, backend.headers(request.method ?? 'GET', path, headersFor));
    response.handOver({
      own,
      passes: (name) => passesToClient(name, { ownsCors }),
      onContinue: () => (continued = true),
      // A client that was not told to send its body may leave it out: no next request fits behind
      onHead: () => (response.shouldKeepAlive &&= continued),
      onBody: (bytes) => {
        this.bytes += bytes;
        this.#silence?.refresh();
      },
      onGivenUp: (error) => this.fail(error ?? new Error('the site hung up')),
    });
    this.#watchSilence();
    backend.local?.handle(request, response);
  }

  protected override get contentType(): string | undefined {
    const { response } = this;
    return response.headersSent ? String(response.getHeader('content-type')) : undefined;
  }

  protected override endAnswer(): void {
    this.response.takeBack(() => this.response.end());
  }

  protected override get waitsForBody(): boolean {
    const { request, response } = this;
    return !request.complete && request.readableLength === 0 && !response.headersSent;
  }

  protected override get isStalled(): boolean {
    return this.response.writableNeedDrain;
  }

  protected override leaveSite(): void {
    clearTimeout(this.#silence);
  }

  protected override refuseBy(error: GatewayError): void {
    this.response.takeBack(() => super.refuseBy(error));
  }

  /** Bytes of the answer put it off; those of the request are looked at when the time is over. */
  #watchSilence(): void {
    const { socket } = this.request;
    this.#read = socket.bytesRead;
    this.#silence = setTimeout(() => {
      // it has said all; a client that is slow to take it is `endIfSlow`'s
      if (this.response.writableEnded) return;
      if (socket.bytesRead !== this.#read || this.isStalled) this.#watchSilence();
      else this.fail(new Error('the site is silent'));
    }, this.facts.site.options.idleTimeoutMs).unref();
  }
}
