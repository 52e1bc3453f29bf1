import { z } from 'zod';
import type { Caller } from '#kernel/http/caller.js';

/** Ours, as UNICORE has it for storages: an administrator's `filter=all` lists what all users have. */
export const listFilter = z
  .string()
  .toLowerCase()
  .pipe(z.literal('all'))
  .optional()
  .catch(undefined);
export type ListFilter = z.output<typeof listFilter>;

export function seesAll(caller: Caller, filter: ListFilter): boolean {
  return filter === 'all' && caller.role === 'admin';
}
