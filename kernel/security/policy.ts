import { describePolicy, type Policy } from '#kernel/http/operation.js';
import { equalDns } from './dn.js';

/** Callers with one of these roles. An administrator who chose another role is none. */
export const hasRole = (...roles: readonly string[]): Policy =>
  describePolicy({ description: `callers with the role ${roles.join(' or ')}` }, ({ role }) =>
    roles.includes(role),
  );

/**
 * The one who owns what the operation is about, or an administrator. Strangers own nothing, whatever
 * their certificate says.
 * @param findOwner the DN of the owner; throws what the operation would, `NOT_FOUND` say
 */
export const ownerOrAdmin = <Deps, Input>(
  findOwner: (deps: Deps, input: Input) => string | Promise<string>,
): Policy<Deps, Input> =>
  describePolicy(
    { description: 'the owner, or an administrator' },
    async ({ dn, role }, deps: Deps, input: Input) => {
      const owner = await findOwner(deps, input);
      return role === 'admin' || (role !== 'anonymous' && isSameDn(dn, owner));
    },
  );

/** The common case first: names that we wrote are spelt alike. */
function isSameDn(a: string, b: string): boolean {
  return a === b || equalDns(a, b);
}
