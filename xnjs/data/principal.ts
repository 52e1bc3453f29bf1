import type { Caller } from '#kernel/http/caller.js';
import { attributesOf, type Attributes } from '#kernel/security/caller.js';
import { isAllowed, type AccessLevel } from '#kernel/security/acl.js';
import type { Storage } from '../storage/storage.js';
import type { Storages } from '../storage/storages.js';
import { GridError } from '#kernel/errors.js';

/** Who has asked for something that is done later, or again and again: as he was then. */
export type Principal = Caller & { readonly attributes: Attributes };

export function principalOf(caller: Caller): Principal {
  const { dn, role, login } = caller;
  return { dn, role, ...(login !== undefined && { login }), attributes: attributesOf(caller) };
}

/**
 * A storage, for as long as whoever acts may use it.
 * @throws `NOT_FOUND` there is none; `FORBIDDEN` not any more
 */
export async function storageFor(
  storages: Pick<Storages, 'get'>,
  storageId: string,
  principal: Principal,
  level: AccessLevel,
): Promise<Storage> {
  const storage = await storages.get(storageId);
  if (isAllowed(storage, principal, level)) return storage;
  throw new GridError('FORBIDDEN', `storage ${storageId} may not be used any more`);
}
