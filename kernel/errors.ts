/**
 * The one error catalogue. A row says what a caller can tell apart and how each edge speaks it:
 * `http` is the REST status, `fault` the SOAP fault's local name, `retry` whether the same call may
 * succeed later without a change by the caller.
 */
export const errorCatalog = {
  BAD_REQUEST: { http: 400, fault: 'BadRequestFault', retry: false },
  UNAUTHENTICATED: { http: 403, fault: 'AuthenticationFault', retry: false },
  FORBIDDEN: { http: 403, fault: 'AuthorisationFault', retry: false },
  NOT_FOUND: { http: 404, fault: 'ResourceUnknownFault', retry: false },
  METHOD_NOT_ALLOWED: { http: 405, fault: 'ActionNotSupportedFault', retry: false },
  NOT_ACCEPTABLE: { http: 406, fault: 'BadRequestFault', retry: false },
  CONFLICT: { http: 409, fault: 'ResourceNotReadyFault', retry: false },
  TOO_LARGE: { http: 413, fault: 'BadRequestFault', retry: false },
  UNSUPPORTED_MEDIA_TYPE: { http: 415, fault: 'BadRequestFault', retry: false },
  RANGE_NOT_SATISFIABLE: { http: 416, fault: 'BadRequestFault', retry: false },
  LIMIT_REACHED: { http: 429, fault: 'ServerBusyFault', retry: true },
  /** Where a service says so (unicore-rest 3.21); elsewhere strangers are anonymous. */
  LOGIN_REQUIRED: { http: 401, fault: 'AuthenticationFault', retry: false },
  PRECONDITION_FAILED: { http: 412, fault: 'ResourceNotReadyFault', retry: false },
  SESSION_UNKNOWN: { http: 432, fault: 'AuthenticationFault', retry: false },
  INTERNAL: { http: 500, fault: 'ServerFault', retry: false },
  NOT_IMPLEMENTED: { http: 501, fault: 'ActionNotSupportedFault', retry: false },
  SITE_UNAVAILABLE: { http: 503, fault: 'ServerBusyFault', retry: true },
  PEER_FAILED: { http: 502, fault: 'ServerFault', retry: false },
  STORAGE_FULL: { http: 507, fault: 'ServerBusyFault', retry: true },
  CONFIG_INVALID: { http: 500, fault: 'ServerFault', retry: false },
  ADDRESS_IN_USE: { http: 500, fault: 'ServerFault', retry: false },
  DATABASE_UNAVAILABLE: { http: 503, fault: 'ServerBusyFault', retry: true },

  HYPERVISOR_UNAVAILABLE: { http: 503, fault: 'ServerBusyFault', retry: true },
  HYPERVISOR_PROTOCOL: { http: 502, fault: 'ServerFault', retry: false },
  HYPERVISOR_FAILED: { http: 502, fault: 'ServerFault', retry: false },
  DOMAIN_UNKNOWN: { http: 404, fault: 'ResourceUnknownFault', retry: false },

  IMAGE_UNKNOWN: { http: 404, fault: 'ResourceUnknownFault', retry: false },
  IMAGE_INVALID: { http: 400, fault: 'BadRequestFault', retry: false },
  IMAGE_IN_USE: { http: 409, fault: 'ResourceNotReadyFault', retry: true },

  QUOTA_EXCEEDED: { http: 429, fault: 'ServerBusyFault', retry: true },
  VM_ILLEGAL_EVENT: { http: 409, fault: 'ResourceNotReadyFault', retry: false },
  VM_NOT_READY: { http: 503, fault: 'ResourceNotReadyFault', retry: true },

  JOB_UNKNOWN: { http: 404, fault: 'ResourceUnknownFault', retry: false },
  JOB_INVALID: { http: 400, fault: 'BadRequestFault', retry: false },
  JOB_ILLEGAL_EVENT: { http: 409, fault: 'ResourceNotReadyFault', retry: false },
  JOB_LIMIT: { http: 429, fault: 'ServerBusyFault', retry: true },
  APPLICATION_UNKNOWN: { http: 400, fault: 'BadRequestFault', retry: false },
  RESOURCE_UNKNOWN: { http: 400, fault: 'BadRequestFault', retry: false },
  RESOURCE_OUT_OF_RANGE: { http: 400, fault: 'BadRequestFault', retry: false },
  IDB_INVALID: { http: 400, fault: 'BadRequestFault', retry: false },

  TSI_UNAVAILABLE: { http: 503, fault: 'TSIUnavailableFault', retry: true },
  TSI_PROTOCOL: { http: 502, fault: 'TSIProtocolFault', retry: false },
  TSI_FAILED: { http: 500, fault: 'TSIFailedFault', retry: false },
} as const satisfies Record<string, { http: number; fault: string; retry: boolean }>;

export type ErrorCode = keyof typeof errorCatalog;

/** Facts for the log and, where the edge says so, for the caller. Never secrets. */
export type ErrorDetails = Readonly<Record<string, unknown>>;

/**
 * The base of every error that a caller may meet. Our own bugs are `assert` or `TypeError` instead.
 * Each layer derives a family: `class TsiError extends GridError<'TSI_UNAVAILABLE' | …> {}`.
 */
export class GridError<Code extends ErrorCode = ErrorCode> extends Error {
  readonly code: Code;
  readonly details: ErrorDetails;

  constructor(code: Code, message: string, details: ErrorDetails = {}, options?: ErrorOptions) {
    super(message, options);
    this.name = new.target.name;
    this.code = code;
    this.details = details;
  }

  get row(): (typeof errorCatalog)[Code] {
    return errorCatalog[this.code];
  }
}

/** What was thrown, if it is one of ours. */
export function asGridError(error: unknown): GridError | undefined {
  return error instanceof GridError ? (error as GridError) : undefined; // instanceof forgets the code's type
}

/** The text of anything thrown, for sentences such as `could not start: …`. */
export function errorText(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
