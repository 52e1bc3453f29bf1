import type { ServerResponse } from 'node:http';
import { GridError } from '#kernel/errors.js';
import { anonymous } from './caller.js';
import { prefersHtml, toErrorPage } from './html/negotiate.js';
import type { PageFrame } from './html/page.js';
import { jsonType } from './reply.js';
import type { ServedRequest } from './served.js';

/** The body of every error (unicore-rest 4.1); an object, since pyunicore calls `.get` on it. */
export type ErrorBody = { readonly errorMessage: string; readonly status: number };

/**
 * The one place where errors become REST answers: the row of the catalogue decides the status. Anything
 * without a row is our fault: 500, no detail, logged. An answer that has begun is cut off, so that
 * nobody takes it for a whole one. People get a page, and are asked who they are where that may help.
 */
export function restEdge(
  frameOf: (request: ServedRequest) => PageFrame,
): (thrown: unknown, request: ServedRequest, response: ServerResponse) => void {
  return (thrown, request, response) => {
    // or has been answered by a gateway that would wait no longer
    const clientLeft = request.socket.destroyed || response.destroyed || response.writableEnded;
    const error = clientLeft ? undefined : toGridError(thrown);
    const asksWho = prefersHtml(request) && error !== undefined && isForLackOfLogin(error, request);
    const status = asksWho ? 401 : (error?.row.http ?? 500);
    const { log } = request.logged;
    if (clientLeft) log.debug({ err: thrown }, 'client left');
    else if (error === undefined) log.error({ err: thrown }, 'request failed unexpectedly');
    else if (status >= 500) log.warn({ err: error, details: error.details }, 'request failed');
    if (clientLeft || response.headersSent) {
      response.destroy();
      return;
    }
    request.head.setOn(response);
    const body: ErrorBody = { errorMessage: error?.message ?? 'internal server error', status };
    for (const name of response.getHeaderNames())
      if (name.startsWith('content-') || name === 'etag') response.removeHeader(name);
    const { retryAfterSeconds } = error?.details ?? {};
    if (typeof retryAfterSeconds === 'number') response.setHeader('retry-after', retryAfterSeconds);
    response.statusCode = status;
    if (!prefersHtml(request)) {
      const text = JSON.stringify(body);
      response.setHeader('content-type', `${jsonType}; charset=utf-8`);
      response.setHeader('content-length', Buffer.byteLength(text));
      response.end(request.method === 'HEAD' ? undefined : text);
      return;
    }
    const frame = frameOf(request);
    if (asksWho) response.setHeader('www-authenticate', challengeOf(frame));
    const { headers, body: page } = toErrorPage(body, frame);
    for (const [name, value] of Object.entries(headers))
      if (value !== undefined) response.setHeader(name, value);
    response.end(request.method === 'HEAD' ? undefined : page);
  };
}

/**
 * A browser sends a password only when it is asked for one, and keeps a wrong one until it is asked again. Programs get
 * 403, as UNICORE's expect it (unicore-rest 2.1).
 */
function isForLackOfLogin({ code }: GridError, { caller, headers }: ServedRequest): boolean {
  if (code === 'UNAUTHENTICATED') return /^basic /i.test(headers.authorization ?? '');
  return code === 'LOGIN_REQUIRED' || (code === 'FORBIDDEN' && caller?.dn === anonymous.dn);
}

function challengeOf({ baseUrl }: PageFrame): string {
  const realm = baseUrl.slice(baseUrl.lastIndexOf('/') + 1).replace(/[^\w.-]/g, '');
  return `Basic realm="${realm}", charset="UTF-8"`;
}

function toGridError(thrown: unknown): GridError | undefined {
  if (thrown instanceof GridError) return thrown;
  // how express reports a path that is not URL encoded text
  if (thrown instanceof URIError) return new GridError('BAD_REQUEST', 'malformed URL');
  return undefined;
}
