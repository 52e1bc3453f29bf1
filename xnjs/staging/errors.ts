import { errorText, GridError } from '#kernel/errors.js';

/** Why a file could not be brought in or out, for good. */
export class StagingError extends GridError<
  'BAD_REQUEST' | 'FORBIDDEN' | 'NOT_FOUND' | 'CONFLICT' | 'PEER_FAILED'
> {}

/** Trouble that may pass: a lost connection, a busy server. The transfer goes on after a while. */
export class PassingError extends GridError<'SITE_UNAVAILABLE'> {
  /** The server said how long it wants to be left alone. */
  readonly retryAfterMs: number | undefined;

  constructor(
    message: string,
    options?: ErrorOptions & { readonly retryAfterMs?: number | undefined },
  ) {
    super('SITE_UNAVAILABLE', message, {}, options);
    this.retryAfterMs = options?.retryAfterMs;
  }
}

/** What broke a connection, from the text that node or a library has for it. */
export function reasonOf(error: unknown): string {
  if (error instanceof AggregateError && error.errors.length > 0) return errorText(error.errors[0]);
  const text = errorText(error);
  return error instanceof Error && error.cause !== undefined
    ? `${text} (${errorText(error.cause)})`
    : text;
}
