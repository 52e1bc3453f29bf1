import type { IncomingMessage } from 'node:http';
import { hasBody } from '#kernel/http/upgrade.js';
import { Exchange } from './exchange.js';
import { passesToClient, rewriteRequest } from './headers.js';
import type { GatewayError } from './reply.js';
import type { RouteLimits } from './routes.js';

/** A document, which comes at once or from somebody odd. */
const longestInTime = 1024 * 1024;

/**
 * With a site in our own process: it is given the client's request and answer themselves. Bytes are not ours to
 * move then; we look at them as they pass.
 */
export class HandOver extends Exchange {
  /** What the client's connection had read, and been given of the answer, when silence began to count. */
  #seen = { read: 0, bytes: 0 };

  /**
   * A body that has to be counted goes by a connection, and so does a long one whose reader may have to be stopped
   * in time. One that says its length has been counted by the router, and Node holds it to that.
   */
  static fits(request: IncomingMessage, { maxBodyBytes, timeoutMs }: RouteLimits): boolean {
    if (!hasBody(request)) return true;
    if (timeoutMs === undefined) return maxBodyBytes === undefined || saysLength(request);
    return saysLength(request) && Number(request.headers['content-length']) <= longestInTime;
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
      },
      onGivenUp: (error) => this.fail(error ?? new Error('the site hung up')),
    });
    backend.local?.handle(request, response);
  }

  override endIfSilent(): void {
    const { read, bytes } = this.#seen;
    const { bytesRead } = this.request.socket;
    this.#seen = { read: bytesRead, bytes: this.bytes };
    // it has said all; a client that is slow to take it is `endIfSlow`'s
    if (this.isClosed || this.response.writableEnded) return;
    if (bytesRead === read && this.bytes === bytes && !this.isStalled)
      this.fail(new Error('the site is silent'));
  }

  protected override get contentType(): string | undefined {
    return this.response.contentType;
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
    // What has not come by then is not to be read, and acted on, after the client was told that time is up
    if (this.facts.timeoutMs !== undefined && !this.request.complete) this.request.destroy();
  }

  protected override refuseBy(error: GatewayError): void {
    this.response.takeBack(() => super.refuseBy(error));
  }
}

function saysLength({ headers }: IncomingMessage): boolean {
  return headers['content-length'] !== undefined && headers['transfer-encoding'] === undefined;
}
