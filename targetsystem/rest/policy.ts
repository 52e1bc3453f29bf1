import { z } from 'zod';
import { hasRole, resourcePolicies } from '#kernel/security/policy.js';
import type { RestDeps } from './deps.js';

/*
 * The rules of this service, each with the part of the input that it looks at (unicore-rest 2.11): GET asks
 * for `read`, POST for `write`, PUT for `modify`; of files, PUT and DELETE ask for `write` too. What ends a
 * resource is its owner's. What belongs to a resource (a job's directory and actions, a storage's files) asks the
 * resource's own rule.
 */

/** Whoever may have resources made. */
export const users = hasRole('user', 'admin');

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

function protectedBy({ ownerDn, acl = [] }: { ownerDn: string; acl?: readonly string[] }) {
  return { ownerDn, acl };
}
