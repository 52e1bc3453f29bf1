import type { Role } from '#kernel/http/caller.js';
import { errorText, GridError } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import type { Identity } from './identity.js';
import type { User, Users } from './users.js';

/** What a source says of a user; of each the first is the default. A member left out: it says nothing of it. */
export type AttributeValues = {
  /** As the source spells the name. */
  readonly dn?: string;
  readonly roles?: readonly Role[];
  readonly logins?: readonly string[];
  readonly groups?: readonly string[];
  /** Chosen unless the user chooses others. */
  readonly supplementaryGroups?: readonly string[];
  /** Partitions that may be used; absent: all. */
  readonly queues?: readonly string[];
  readonly vos?: readonly string[];
};

/** Whose attributes are asked for. */
export type Subject = {
  readonly dn: string;
  /** What the authentication method vouches for. */
  readonly claims?: Identity['claims'];
  /** The virtual organisation as whose member he comes; absent: of all. */
  readonly vo?: string | undefined;
};

export type AttributeSource = {
  readonly name: string;
  /** @returns `undefined`: it does not know the user */
  readonly find: (subject: Subject) => Promise<AttributeValues | undefined>;
};

/** How the answers of several sources become one; the names are UNICORE's. */
export const combiningPolicies = [
  /** Of each attribute, what the last source says that says anything of it. */
  'MERGE_LAST_OVERRIDES',
  /** Of each attribute, what all sources say. */
  'MERGE',
  /** The first source that knows the user. */
  'FIRST_APPLICABLE',
  /** The first source that can be asked. */
  'FIRST_ACCESSIBLE',
] as const;
export type CombiningPolicy = (typeof combiningPolicies)[number];

const unknown: AttributeValues = {};

/**
 * Asks sources in their order. Whom one of them calls `banned` is banned, whatever the others say.
 * @returns `undefined`: nobody knows the user
 * @throws `SITE_UNAVAILABLE` a source cannot be asked, and the policy does not do without it
 */
export function createAttributeChain(
  sources: readonly AttributeSource[],
  policy: CombiningPolicy,
  log: Log,
): (subject: Subject) => Promise<AttributeValues | undefined> {
  async function ask(source: AttributeSource, subject: Subject): Promise<AttributeValues> {
    try {
      return (await source.find(subject)) ?? unknown;
    } catch (cause) {
      log.error({ source: source.name, reason: errorText(cause) }, 'attribute source failed');
      const text = `the attribute source ${source.name} cannot be asked`;
      throw new GridError('SITE_UNAVAILABLE', text, { source: source.name }, { cause });
    }
  }

  return async (subject) => {
    const found: AttributeValues[] = [];
    let failure: unknown;
    for (const source of sources) {
      try {
        const values = await ask(source, subject);
        if (values !== unknown) found.push(values);
      } catch (error) {
        if (policy !== 'FIRST_ACCESSIBLE') throw error;
        failure = error;
        continue;
      }
      failure = undefined;
      if (policy === 'FIRST_ACCESSIBLE' || (policy === 'FIRST_APPLICABLE' && found.length > 0))
        break;
    }
    if (failure !== undefined) throw failure as Error;
    if (found.some(({ roles = [] }) => roles.includes('banned'))) return { roles: ['banned'] };
    return found.length === 0 ? undefined : found.reduce(policy === 'MERGE' ? merge : override);
  };
}

function override(before: AttributeValues, after: AttributeValues): AttributeValues {
  return { ...before, ...after, ...spelling(before, after) };
}

function merge(before: AttributeValues, after: AttributeValues): AttributeValues {
  const lists = ['roles', 'logins', 'groups', 'supplementaryGroups', 'queues', 'vos'] as const;
  const merged = lists.flatMap((name) => {
    const values = [...(before[name] ?? []), ...(after[name] ?? [])];
    return before[name] || after[name] ? [[name, [...new Set(values)]] as const] : [];
  });
  return { ...Object.fromEntries(merged), ...spelling(before, after) };
}

/** The first to write a name down has the say in how it is spelt. */
function spelling(before: AttributeValues, after: AttributeValues): { dn?: string } {
  const dn = before.dn ?? after.dn;
  return dn === undefined ? {} : { dn };
}

/** The users file as the first source. What it says of an entry is one object: a change makes another entry. */
export function usersSource(users: Users): AttributeSource {
  const known = new WeakMap<User, AttributeValues>();
  return {
    name: 'users',
    async find({ dn }) {
      const user = await users.findByDn(dn);
      if (!user) return undefined;
      const values = known.get(user) ?? valuesOf(user);
      known.set(user, values);
      return values;
    },
  };
}

function valuesOf({ dn, name, login = name, groups, role }: User): AttributeValues {
  return { dn, roles: role === 'admin' ? ['admin', 'user'] : [role], logins: [login], groups };
}
