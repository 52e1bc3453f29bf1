import type { IncomingHttpHeaders, ServerResponse } from 'node:http';
import type { Readable } from 'node:stream';
import type { Log } from '#kernel/log.js';
import type { Audit } from '#kernel/security/audit.js';
import { acceptBody } from './body.js';
import type { Caller } from './caller.js';
import { preferredType } from './html/negotiate.js';
import type { RawContext } from './operation.js';
import type { ServedRequest } from './served.js';
import { upgradeOf } from './upgrade.js';

/** Made once: every answer ends so, and an error costs a stack trace. */
export const clientLeft = new DOMException('the client has left, or has its answer', 'AbortError');

export type ContextFacts = Pick<RawContext, 'caller' | 'renew' | 'baseUrl' | 'url' | 'audit'>;

/** What most operations never ask for is made when they do. A class for the reason that `Logged` is one. */
export class RequestContext implements RawContext {
  readonly caller: Caller;
  readonly renew: () => Promise<Caller>;
  readonly baseUrl: string;
  readonly url: string;
  readonly audit: Audit | undefined;
  /** A function on its own, as the record's type says. */
  readonly accepts: RawContext['accepts'];
  readonly #request: ServedRequest;
  readonly #response: ServerResponse;
  #signal: AbortSignal | undefined;

  constructor(
    request: ServedRequest,
    response: ServerResponse,
    { caller, renew, baseUrl, url, audit }: ContextFacts,
  ) {
    this.#request = request;
    this.#response = response;
    this.caller = caller;
    this.renew = renew;
    this.baseUrl = baseUrl;
    this.url = url;
    this.accepts = (types) => preferredType(request, types);
    const { reqId } = request.logged;
    this.audit = audit && ((decision) => audit(decision, reqId));
  }

  get log(): Log {
    return this.#request.logged.log;
  }

  get signal(): AbortSignal {
    return (this.#signal ??= closingOf(this.#response));
  }

  get headers(): IncomingHttpHeaders {
    return this.#request.headers;
  }

  get upgrade(): string | undefined {
    return upgradeOf(this.#request);
  }

  get body(): Readable {
    acceptBody(this.#request, this.#response);
    return this.#request;
  }
}

/** Aborted when the client has left, or has its answer. */
function closingOf(response: ServerResponse): AbortSignal {
  const left = new AbortController();
  if (response.destroyed) left.abort(clientLeft);
  else response.once('close', () => left.abort(clientLeft));
  return left.signal;
}
