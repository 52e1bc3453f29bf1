import type { Clock } from '#kernel/clock.js';
import type { JobEngine, TargetSystems } from '#xnjs/index.js';

/** What the REST operations of this service work with. */
export type RestDeps = {
  readonly siteName: string;
  readonly version: string;
  readonly startedMs: number;
  readonly clock: Clock;
  readonly systems: TargetSystems;
  readonly jobs: JobEngine;
  /** Where images are found by people; shown as a link. */
  readonly imagesUrl: (baseUrl: string) => string;
  /** Image for jobs that name neither a target system nor an image; absent: such jobs are refused. */
  readonly defaultImage?: string;
  /** Own certificate, for the base resource and the registry. */
  readonly credential: {
    readonly dn: string;
    readonly issuer: string;
    readonly expiresMs: number;
    readonly pem: string;
  };
};
