import type { Context } from '#kernel/http/operation.js';
import { findGrant } from '#kernel/security/acl.js';
import type { TargetSystem } from '#xnjs/index.js';
import type { RestDeps } from './deps.js';
import { seesAll, type ListFilter } from './lists.js';

/**
 * The caller's target systems and those that others let him see, the newest first; all where an
 * administrator asks for them.
 */
export function visibleSystems(
  { systems }: RestDeps,
  { caller }: Context,
  filter?: ListFilter,
): TargetSystem[] {
  if (caller.role === 'anonymous') return [];
  return systems
    .list()
    .filter(
      ({ ownerDn, acl = [] }) =>
        seesAll(caller, filter) ||
        ownerDn === caller.dn ||
        findGrant(acl, caller, 'read') !== undefined,
    );
}
