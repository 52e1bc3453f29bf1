import type { Caller, Role } from '#kernel/http/caller.js';
import { findGrant, isOwner, type AccessLevel, type Protected } from './acl.js';

/** What a policy says of itself: for the API document, and for tests that compare it with what happens. */
export type PolicyView = {
  readonly rule: 'everybody' | 'authenticated' | 'role' | 'owner' | 'acl' | 'capability';
  /** Completes "may be used by …". */
  readonly description: string;
  /** Callers without credentials may come in, too. */
  readonly anonymous?: true;
  /** Those without credentials who may not come in are told to log in: 401 instead of 403. */
  readonly asksForLogin?: true;
  /** Of rule `role`. */
  readonly roles?: readonly Role[];
  /** Kind of resource that the rules `owner` and `acl` look at. */
  readonly resource?: string;
  /** What an entry of the ACL has to grant, by rule `acl`. */
  readonly level?: AccessLevel;
};

export type Decision = {
  readonly allowed: boolean;
  /** For the audit log; holds no secrets. */
  readonly why: string;
};

/**
 * Who may. Asked after the input was checked and before the operation runs; may throw what the
 * operation would, `NOT_FOUND` say.
 */
export type Policy<Deps = unknown, Input = unknown> = PolicyView & {
  readonly decide: (caller: Caller, deps: Deps, input: Input) => Decision | Promise<Decision>;
};

const yes = (why: string): Decision => ({ allowed: true, why });
const no = (why: string): Decision => ({ allowed: false, why });

/** The one place where it is decided (unicore-rest 2.11): the banned first, whatever the rule. */
export async function decide<Deps, Input>(
  policy: Policy<Deps, Input>,
  caller: Caller,
  deps: Deps,
  input: Input,
): Promise<Decision> {
  if (caller.role === 'banned') return no('banned');
  return policy.decide(caller, deps, input);
}

/** Also without credentials. What is shown may still depend on who asks. */
export const everybody: Policy = {
  rule: 'everybody',
  description: 'everybody, also without credentials',
  anonymous: true,
  decide: () => yes('open to everybody'),
};

/** Whoever has proved an identity that is known here. */
export const authenticated: Policy = {
  rule: 'authenticated',
  description: 'whoever is known here, in any role',
  decide: ({ role }) => (role === 'anonymous' ? no('nobody known') : yes('known')),
};

/** The same rule where UNICORE answers strangers with 401 (unicore-rest 4.2). */
export const askingForLogin = <Deps, Input>(policy: Policy<Deps, Input>): Policy<Deps, Input> => ({
  ...policy,
  asksForLogin: true,
});

/** Callers with one of these roles. An administrator who chose another role is none. */
export const hasRole = (...roles: readonly Role[]): Policy => ({
  rule: 'role',
  description: `callers in role ${roles.join(' or ')}`,
  roles,
  decide: ({ role }) => (roles.includes(role) ? yes : no)(`role ${role}`),
});

export const adminOnly = hasRole('admin');

/** The address is the proof: it was given to somebody who might, and cannot be guessed. */
export const capability: Policy = {
  rule: 'capability',
  description: 'whoever knows the address, which is as good as a password',
  anonymous: true,
  decide: () => yes('knows the address'),
};

/** Rules about one kind of resource. */
export type ResourcePolicies<Deps, Input> = Readonly<
  Record<AccessLevel | 'own', Policy<Deps, Input>>
>;

/**
 * Rules for operations on a resource that has an owner: `own` is for the owner and administrators, the
 * others also for those whom the resource's ACL grants so much.
 * @param find throws what the operation would, `NOT_FOUND` say
 */
export function resourcePolicies<Deps, Input>(
  resource: string,
  find: (deps: Deps, input: Input, caller: Caller) => Protected | Promise<Protected>,
): ResourcePolicies<Deps, Input> {
  const byAcl = (level: AccessLevel): Policy<Deps, Input> => ({
    rule: 'acl',
    description: `the owner of the ${resource}, administrators, and whom its ACL grants to ${level}`,
    resource,
    level,
    decide: async (caller, deps, input) => {
      const found = await find(deps, input, caller);
      if (isOwner(found, caller)) return ownership(caller);
      const grant = findGrant(found.acl, caller, level);
      return grant === undefined ? no(`neither owner nor granted to ${level}`) : yes(grant);
    },
  });
  return {
    read: byAcl('read'),
    write: byAcl('write'),
    modify: byAcl('modify'),
    own: {
      rule: 'owner',
      description: `the owner of the ${resource} and administrators`,
      resource,
      decide: async (caller, deps, input) => {
        const found = await find(deps, input, caller);
        return isOwner(found, caller) ? ownership(caller) : no('not the owner');
      },
    },
  };
}

function ownership({ role }: Caller): Decision {
  return yes(role === 'admin' ? 'administrator' : 'owner');
}
