import { z } from 'zod';
import type { Policy } from '#kernel/http/operation.js';
import { isAllowed, isOwner, type AccessLevel } from '#xnjs/index.js';
import type { RestDeps } from './deps.js';

export const storageInput = { storageId: z.string().max(80) };
type StorageInput = { readonly storageId: string };
type StoragePolicy = Policy<RestDeps, StorageInput>;

/** The owner, administrators, and whom the storage's ACL grants that much. */
const mayUse =
  (level: AccessLevel): StoragePolicy =>
  async (caller, { storages }, { storageId }) =>
    isAllowed(await storages.get(storageId), caller, level);

export const mayRead = mayUse('read');
export const mayWrite = mayUse('write');
export const mayModify = mayUse('modify');

export const storageOwner: StoragePolicy = async (caller, { storages }, { storageId }) =>
  isOwner(await storages.get(storageId), caller);
