import type { ServerResponse } from 'node:http';
import { GridError } from '#kernel/errors.js';

export class GatewayError extends GridError<
  | 'BAD_REQUEST'
  | 'UNAUTHENTICATED'
  | 'FORBIDDEN'
  | 'NOT_FOUND'
  | 'METHOD_NOT_ALLOWED'
  | 'CONFLICT'
  | 'TOO_LARGE'
  | 'NOT_IMPLEMENTED'
  | 'LIMIT_REACHED'
  | 'SITE_UNAVAILABLE'
  | 'PEER_FAILED'
  | 'INTERNAL'
> {}

/** The gateway's own headers on every answer. */
export const ownHeaders = (reqId: string): readonly string[] => [
  'X-Frame-Options',
  'DENY',
  'X-Request-Id',
  reqId,
];

/**
 * Of every error of ours. Its address may hold a provider's code, and what makes an error of that (many cookies, say) is
 * in the hands of scripts of sites: outside of a sandbox they could read it (ADR 45).
 */
export const errorHeaders: readonly string[] = [
  ...['Content-Type', 'application/json'],
  ...['Content-Security-Policy', "default-src 'none'; sandbox"],
];

/** The form of every error (unicore-rest 4.1), so that clients show it. */
export function errorBody(status: number, message: string): string {
  return JSON.stringify({ errorMessage: message, status });
}

export function sendBody(
  response: ServerResponse,
  status: number,
  headers: readonly string[],
  body: string,
): void {
  const length = String(Buffer.byteLength(body));
  response.writeHead(status, ['Content-Length', length, ...headers]);
  response.end(body);
}

/** Answers with an error; one that has begun already is cut off, so that nobody takes it for whole. */
export function sendError(
  response: ServerResponse,
  error: GatewayError,
  own: readonly string[],
): void {
  if (response.headersSent) {
    response.destroy();
    return;
  }
  const { http } = error.row;
  sendBody(response, http, [...errorHeaders, ...own], errorBody(http, error.message));
}
