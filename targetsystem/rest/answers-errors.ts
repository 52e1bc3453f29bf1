import type { ErrorCode } from '#kernel/errors.js';

/** What goes wrong with machines and the hosts below them. */
export const machineErrors: readonly ErrorCode[] = [
  'CONFLICT',
  'TSI_UNAVAILABLE',
  'TSI_PROTOCOL',
  'TSI_FAILED',
  'HYPERVISOR_UNAVAILABLE',
  'HYPERVISOR_FAILED',
  'VM_NOT_READY',
];
/** What else goes wrong with files. */
export const fileErrors: readonly ErrorCode[] = [
  ...machineErrors,
  'NOT_IMPLEMENTED',
  'STORAGE_FULL',
  'TOO_LARGE',
];
/** What else goes wrong when a machine is wished for. */
export const imageErrors: readonly ErrorCode[] = [
  ...machineErrors,
  'IMAGE_UNKNOWN',
  'SITE_UNAVAILABLE',
  'PEER_FAILED',
  'JOB_LIMIT',
  'QUOTA_EXCEEDED',
];
