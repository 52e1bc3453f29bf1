import { GridError } from '#kernel/errors.js';

export class JobError extends GridError<
  | 'JOB_UNKNOWN'
  | 'JOB_INVALID'
  | 'JOB_ILLEGAL_EVENT'
  | 'APPLICATION_UNKNOWN'
  | 'RESOURCE_UNKNOWN'
  | 'RESOURCE_OUT_OF_RANGE'
  | 'JOB_LIMIT'
  | 'SITE_UNAVAILABLE'
  | 'CONFLICT'
  | 'NOT_FOUND'
> {}
