import type { Caller } from '#kernel/http/caller.js';

/** One security decision, as it is to be written down. Holds no secrets. */
export type SecurityDecision = {
  readonly what: 'login' | 'access';
  readonly allowed: boolean;
  readonly why: string;
  /** Absent: nobody was recognised. */
  readonly caller?: Caller;
  /** The client's address, where the caller does not tell it. */
  readonly peer?: string;
  /** Of `access`: which operation, `GET /jobs/:jobId`, … */
  readonly operation?: string;
  /** … and on what. */
  readonly resource?: string;
  readonly reqId?: string | undefined;
};

export type Audit = (decision: SecurityDecision) => void;
