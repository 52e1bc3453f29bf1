import type { Readable } from 'node:stream';
import type { Dispatcher } from 'undici';
import { z } from 'zod';
import { errorCatalog, errorText, GridError, type ErrorCode } from '#kernel/errors.js';
import { collectText } from '#kernel/net/collect-text.js';

export class PeerError extends GridError<'SITE_UNAVAILABLE' | 'PEER_FAILED'> {}

const longestErrorBytes = 65_536;
const longestErrorText = 2_000;

export type HttpAnswer = {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
};
/** `body` is `undefined` when the answer has none. Not yet validated: send it through a schema. */
export type JsonAnswer = HttpAnswer & { readonly body: unknown };
/** `body` must be read to its end or destroyed. */
export type StreamAnswer = HttpAnswer & { readonly body: Readable };

export async function readAnswer(
  answer: Dispatcher.ResponseData,
  limit: number,
  host: string,
): Promise<JsonAnswer> {
  const { statusCode: status, headers } = answer;
  const text = await collectText(answer.body, limit).catch((cause: unknown) => {
    throw unavailable(cause, host);
  });
  if (text === undefined)
    throw new PeerError('PEER_FAILED', `${host} sent more than ${limit} bytes`);
  if (text === '') return { status, headers, body: undefined };
  try {
    return { status, headers, body: JSON.parse(text) };
  } catch (cause) {
    throw new PeerError('PEER_FAILED', `${host} sent no JSON`, { status }, { cause });
  }
}

const errorBody = z.object({ errorMessage: z.string() });
/** Codes by status, for those that mean one thing; what is missing here is the peer's own trouble. */
const codes = new Map<number, ErrorCode>(
  (
    [
      'BAD_REQUEST',
      'FORBIDDEN',
      'NOT_FOUND',
      'METHOD_NOT_ALLOWED',
      'NOT_ACCEPTABLE',
      'CONFLICT',
      'TOO_LARGE',
      'UNSUPPORTED_MEDIA_TYPE',
      'RANGE_NOT_SATISFIABLE',
      'LIMIT_REACHED',
      'SESSION_UNKNOWN',
      'SITE_UNAVAILABLE',
      'STORAGE_FULL',
    ] as const
  ).map((code) => [errorCatalog[code].http, code]),
);

function codeOf(status: number): ErrorCode {
  return codes.get(status) ?? (status === 401 ? 'UNAUTHENTICATED' : 'PEER_FAILED');
}

/** An answer that is not the one asked for as an error, with the peer's text. */
export async function toGridError(
  status: number,
  body: Readable,
  call: string,
): Promise<GridError> {
  const text = await collectText(body, longestErrorBytes).catch(() => undefined);
  const reason = errorMessageIn(text ?? '') ?? `${call} answered ${status}`;
  return new GridError(codeOf(status), reason.slice(0, longestErrorText), { call, status });
}

function errorMessageIn(text: string): string | undefined {
  try {
    return errorBody.safeParse(JSON.parse(text)).data?.errorMessage;
  } catch {
    return undefined;
  }
}

/** Why no answer came. The caller's own abort stays what it is. */
export function unavailable(cause: unknown, host: string): unknown {
  if (cause instanceof GridError) return cause;
  if (cause instanceof Error && cause.name === 'AbortError') return cause;
  return new PeerError(
    'SITE_UNAVAILABLE',
    `${host} does not answer: ${errorText(cause)}`,
    { host },
    { cause },
  );
}
