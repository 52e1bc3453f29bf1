import { GridError } from '#kernel/errors.js';

/**
 * What can go wrong between us and libvirt. `HYPERVISOR_UNAVAILABLE`: nobody answers, or not in time (a
 * call that was sent may have been done); `HYPERVISOR_PROTOCOL`: the peer does not speak libvirt's
 * protocol, or we were about to break it; `HYPERVISOR_FAILED` and `DOMAIN_UNKNOWN`: libvirt's own
 * answer, with `libvirtCode` and `libvirtDomain` in the details; `CONFIG_INVALID`: the URI.
 */
export class LibvirtError extends GridError<
  | 'HYPERVISOR_UNAVAILABLE'
  | 'HYPERVISOR_PROTOCOL'
  | 'HYPERVISOR_FAILED'
  | 'DOMAIN_UNKNOWN'
  | 'CONFIG_INVALID'
> {}

/** What the frame and the codecs throw: the bytes, or the value to be sent, cannot be. */
export function protocolError(message: string, details: Record<string, unknown> = {}) {
  return new LibvirtError('HYPERVISOR_PROTOCOL', message, details);
}

export function unavailable(
  message: string,
  details: Record<string, unknown> = {},
  cause?: unknown,
) {
  return new LibvirtError('HYPERVISOR_UNAVAILABLE', message, details, { cause });
}

/** libvirt's numbers for what it refuses (`virErrorNumber`). */
export const refusals = {
  internalError: 1,
  noSupport: 3,
  operationFailed: 9,
  noDomain: 42,
  noNetwork: 43,
  noPool: 49,
  noVolume: 50,
  /** It does not fit the state: it runs already, or no more. */
  operationInvalid: 55,
  noInterface: 57,
  /** Something else is being done with it. */
  operationTimeout: 68,
  noMetadata: 80,
} as const;
export type Refusal = keyof typeof refusals;

/** `undefined`: it is no answer of libvirt. */
export function libvirtCode(error: unknown): unknown {
  return error instanceof GridError ? error.details['libvirtCode'] : undefined;
}

/** Whether libvirt has answered that, of any of these kinds. */
export function hasRefused(error: unknown, ...kinds: readonly Refusal[]): boolean {
  const code = libvirtCode(error);
  return kinds.some((kind) => refusals[kind] === code);
}

/** libvirt knows no such domain, or no more. */
export function isUnknownDomain(error: unknown): boolean {
  return error instanceof GridError && error.code === 'DOMAIN_UNKNOWN';
}
