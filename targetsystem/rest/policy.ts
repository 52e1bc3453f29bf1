import { z } from 'zod';
import { equalDns } from '#kernel/security/dn.js';
import { askingForLogin, hasRole, resourcePolicies, type Policy } from '#kernel/security/policy.js';
import type { RestDeps } from './deps.js';

/*
 * The rules of this service, each with the part of the input that it looks at (unicore-rest 2.11): GET asks
 * for `read`, POST for `write`, PUT for `modify`; of files, PUT and DELETE ask for `write` too. What ends a
 * resource is its owner's. What belongs to a resource (a job's directory and actions, a storage's files) asks the
 * resource's own rule.
 */

/** Whoever may have resources made. */
export const users = hasRole('user', 'admin');
/** The same where strangers are asked to log in: at submission (unicore-rest 4.2). */
export const knownUsers = askingForLogin(users);

export const siteInput = { siteId: z.string().max(64) };
export const onSite = resourcePolicies<RestDeps, { siteId: string }>(
  'target system',
  ({ systems }, { siteId }) => protectedBy(systems.get(siteId)),
);

export const jobInput = { jobId: z.string().max(64) };
export const onJob = resourcePolicies<RestDeps, { jobId: string }>(
  'job',
  async ({ jobs }, { jobId }) => protectedBy(await jobs.get(jobId)),
);

export const storageInput = { storageId: z.string().max(80) };
export const onStorage = resourcePolicies<RestDeps, { storageId: string }>(
  'storage',
  ({ storages }, { storageId }) => storages.get(storageId),
);

export const reservationInput = { reservationId: z.string().max(64) };
export const onReservation = resourcePolicies<RestDeps, { reservationId: string }>(
  'reservation',
  ({ reservations }, { reservationId }) => protectedBy(reservations.get(reservationId)),
);

export const registryEntryInput = { entryId: z.string().max(64) };
const ownEntry = resourcePolicies<RestDeps, { entryId: string }>(
  'registry entry',
  ({ registry }, { entryId }) => protectedBy(registry.entries.get(entryId)),
).own;

/** Servers that the site trusts need not be users here. */
export const mayAddEntries: Policy<RestDeps> = {
  rule: 'role',
  description: 'administrators, servers, and whom the site trusts to add entries',
  roles: ['admin', 'server'],
  decide: (caller, { registry }) => {
    const allowed = registry.mayAdd(caller);
    return { allowed, why: allowed ? 'trusted with entries' : 'not trusted with entries' };
  },
};

/** Whoever may add entries may change their own, and take them back. */
export const mayChangeEntry: Policy<RestDeps, { entryId: string }> = {
  ...ownEntry,
  decide: async (caller, deps, input) => {
    if (caller.role !== 'anonymous') return await ownEntry.decide(caller, deps, input);
    const { ownerDn } = deps.registry.entries.get(input.entryId);
    const allowed = deps.registry.mayAdd(caller) && equalDns(ownerDn, caller.dn);
    return { allowed, why: allowed ? 'has added it' : 'not the owner' };
  },
};

function protectedBy({ ownerDn, acl = [] }: { ownerDn: string; acl?: readonly string[] }) {
  return { ownerDn, acl };
}
