import { ServerResponse, type OutgoingHttpHeader, type OutgoingHttpHeaders } from 'node:http';
import type { RawHeaders } from './headers.js';

/** The gateway, while a service in its process answers a client. */
export type Watcher = {
  /** Whether the client gets to see a header, in lower case, that the service sets. */
  readonly passes: (name: string) => boolean;
  /** The gateway's own headers on the answer. */
  readonly own: RawHeaders;
  /** The answer begins. */
  readonly onHead: () => void;
  readonly onContinue: () => void;
  /** So many bytes of its body. */
  readonly onBody: (bytes: number) => void;
  /** The service gives up without a word. */
  readonly onGivenUp: (error: Error | undefined) => void;
};

/**
 * An answer to a client of the gateway. Handed over to a service it obeys that one as any answer does, under the
 * gateway's eyes: what goes out is the same as if it had come from a site elsewhere.
 */
export class ClientResponse extends ServerResponse {
  #watcher: Watcher | undefined;
  #isHeadOpen = false;
  #isTakenBack = false;
  #contentType: string | undefined;

  /** Of the answer, once its head is written. */
  get contentType(): string | undefined {
    if (!this.headersSent) return undefined;
    return this.#contentType ?? String(this.getHeader('content-type'));
  }

  handOver(watcher: Watcher): void {
    this.#watcher = watcher;
    this.#isHeadOpen = true;
  }

  /** The gateway answers instead, by `send`; whatever the service says from then on is left aside. */
  takeBack(send: () => void): void {
    this.#watcher = undefined;
    this.#isHeadOpen = false;
    if (!this.headersSent) for (const name of this.getHeaderNames()) this.removeHeader(name);
    send();
    this.#isTakenBack = true;
  }

  override setHeader(name: string, value: number | string | readonly string[]): this {
    if (this.#isTakenBack) return this;
    if (this.#isHeadOpen && this.#watcher?.passes(name.toLowerCase()) === false) return this;
    return super.setHeader(name, value);
  }

  override appendHeader(name: string, value: string | readonly string[]): this {
    if (this.#isTakenBack) return this;
    if (this.#isHeadOpen && this.#watcher?.passes(name.toLowerCase()) === false) return this;
    return super.appendHeader(name, value);
  }

  override removeHeader(name: string): void {
    if (!this.#isTakenBack) super.removeHeader(name);
  }

  override writeContinue(callback?: () => void): void {
    if (this.#isTakenBack) return;
    this.#watcher?.onContinue();
    super.writeContinue(callback);
  }

  override writeHead(
    status: number,
    reason?: string | OutgoingHttpHeaders | OutgoingHttpHeader[],
    headers?: OutgoingHttpHeaders | OutgoingHttpHeader[],
  ): this {
    if (this.#isTakenBack) return this;
    if (!this.#isHeadOpen) return this.#writeHead(status, reason, headers);
    const more = typeof reason === 'string' ? headers : reason;
    const isList = Array.isArray(more) && this.getHeaderNames().length === 0;
    if (more && !isList) this.#setHeaders(more);
    this.#isHeadOpen = false;
    const { own = [], onHead } = this.#watcher ?? {};
    onHead?.();
    if (isList) {
      const text = typeof reason === 'string' ? reason : undefined;
      return this.#writeHead(status, text, [...this.#shown(more), ...own]);
    }
    for (let at = 0; at + 1 < own.length; at += 2) super.appendHeader(own[at] ?? '', own[at + 1] ?? ''); // prettier-ignore
    return this.#writeHead(status, typeof reason === 'string' ? reason : undefined, undefined);
  }

  // Overloads of Node's as one, for which it looks at what it is given
  override write(chunk: unknown, encoding?: unknown, callback?: unknown): boolean {
    if (this.#isTakenBack) return true;
    if (typeof chunk === 'string' || chunk instanceof Uint8Array)
      this.#watcher?.onBody(lengthOf(chunk));
    return super.write(chunk, encoding as BufferEncoding, callback as () => void);
  }

  override end(chunk?: unknown, encoding?: unknown, callback?: unknown): this {
    if (this.#isTakenBack) return this;
    if (typeof chunk === 'string' || chunk instanceof Uint8Array)
      this.#watcher?.onBody(lengthOf(chunk));
    return super.end(chunk, encoding as BufferEncoding, callback as () => void);
  }

  override destroy(error?: Error): this {
    if (this.#isTakenBack) return this;
    const isUnsaid = !this.headersSent && !this.req.socket.destroyed;
    if (!this.#watcher || !isUnsaid) return super.destroy(error);
    this.#watcher.onGivenUp(error);
    return this;
  }

  /** Of a list that is written as it is. */
  #shown(list: readonly OutgoingHttpHeader[]): OutgoingHttpHeader[] {
    const shown: OutgoingHttpHeader[] = [];
    for (let at = 0; at + 1 < list.length; at += 2) {
      const [name, value = ''] = [String(list[at]), list[at + 1]];
      const lower = name.toLowerCase();
      if (this.#watcher?.passes(lower) === false) continue;
      if (lower === 'content-type') this.#contentType = String(value);
      shown.push(name, value);
    }
    return shown;
  }

  /** A list may name one several times; what was set before gives way. */
  #setHeaders(headers: OutgoingHttpHeaders | OutgoingHttpHeader[]): void {
    const given = new Set<string>();
    for (const [name, value] of entriesOf(headers)) {
      if (given.has(name)) this.appendHeader(name, value);
      else this.setHeader(name, value);
      given.add(name);
    }
  }

  #writeHead(status: number, reason: unknown, headers: unknown): this {
    // As in `write`
    return super.writeHead(status, reason as string, headers as OutgoingHttpHeaders);
  }
}

function* entriesOf(
  headers: OutgoingHttpHeaders | OutgoingHttpHeader[],
): Generator<[string, string | string[]]> {
  if (!Array.isArray(headers)) {
    for (const [name, value] of Object.entries(headers))
      if (value !== undefined) yield [name, Array.isArray(value) ? value : String(value)];
    return;
  }
  for (let at = 0; at + 1 < headers.length; at += 2) {
    const value = headers[at + 1] ?? '';
    yield [String(headers[at]), Array.isArray(value) ? value : String(value)];
  }
}

function lengthOf(chunk: string | Uint8Array): number {
  return typeof chunk === 'string' ? Buffer.byteLength(chunk) : chunk.byteLength;
}
