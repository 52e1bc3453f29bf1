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
  const headers = ['Content-Type', 'application/json', ...own];
  sendBody(response, http, headers, errorBody(http, error.message));
}
