import { asGridError } from '#kernel/errors.js';

/** Worth another try without a word to the user: the hypervisor or the image repository is away. */
export function isPassing(error: unknown): boolean {
  const known = asGridError(error);
  return known?.row.retry === true && known.code !== 'STORAGE_FULL';
}
