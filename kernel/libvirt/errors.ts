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

/** libvirt's own number for what it refuses; `undefined`: it is no answer of libvirt. */
export function libvirtCode(error: unknown): unknown {
  return error instanceof GridError ? error.details['libvirtCode'] : undefined;
}
