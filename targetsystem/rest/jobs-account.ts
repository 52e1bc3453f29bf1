import { GridError } from '#kernel/errors.js';
import type { Caller } from '#kernel/http/caller.js';
import { attributesOf } from '#kernel/security/caller.js';
import { parseJsdl, type RawDescription } from '#xnjs/index.js';

/** Where the account that JSDL asks for travels beside the keys of a description, up to the submission. */
const accountKeys = { user: 'jsdl:UserName', group: 'jsdl:GroupName' } as const;
type Account = { readonly user?: string; readonly group?: string };

/** JSDL as a description, with the account that it asks for. */
export function fromJsdl(text: string): RawDescription {
  const { description, account } = parseJsdl(text);
  return {
    ...description,
    ...(account.user !== undefined && { [accountKeys.user]: account.user }),
    ...(account.group !== undefined && { [accountKeys.group]: account.group }),
  };
}

/** Takes the account out of a description again. */
export function takeAccount({
  [accountKeys.user]: user,
  [accountKeys.group]: group,
  ...description
}: RawDescription): { account: Account; description: RawDescription } {
  const account = {
    ...(typeof user === 'string' && { user }),
    ...(typeof group === 'string' && { group }),
  };
  return { account, description };
}

/**
 * What the caller has chosen of what he may be (unicore-rest 2.7); a job's own choice goes before that of
 * the request.
 * @throws `FORBIDDEN` naming the element that asks for what is not the caller's
 */
export function preferencesOf(caller: Caller, account: Account = {}): Record<string, string[]> {
  const { logins, groups, group, supplementaryGroups, queue } = attributesOf(caller);
  const login = chosen('UserName', account.user, logins) ?? caller.login;
  const primary = chosen('GroupName', account.group, groups) ?? group;
  return {
    role: [caller.role],
    ...(login !== undefined && { uid: [login] }),
    ...(primary !== undefined && { group: [primary] }),
    ...(supplementaryGroups.length > 0 && { supgroups: [...supplementaryGroups] }),
    ...(queue !== undefined && { queue: [queue] }),
  };
}

/**
 * Queues are for those whom an attribute source lets use them; of whom none says so, may use all
 * (unicore-rest 2.12).
 * @throws `FORBIDDEN` naming the member
 */
export function refuseQueue({ Resources: resources }: RawDescription, caller: Caller): void {
  const { queues } = attributesOf(caller);
  const { Queue: wish } = Object(resources) as { Queue?: unknown };
  if (queues === undefined || typeof wish !== 'string' || queues.includes(wish)) return;
  const yours = queues.length === 0 ? 'you have none' : `yours are ${queues.join(', ')}`;
  const text = `Resources.Queue: "${wish}" is none of your queues; ${yours}`;
  throw new GridError('FORBIDDEN', text, { queue: wish });
}

function chosen(
  element: 'UserName' | 'GroupName',
  wish: string | undefined,
  allowed: readonly string[],
): string | undefined {
  if (wish === undefined || allowed.includes(wish)) return wish;
  const what = element === 'UserName' ? 'logins' : 'groups';
  const yours = allowed.length === 0 ? 'you have none' : `yours are ${allowed.join(', ')}`;
  const text = `JSDL: ${element}: "${wish}" is none of your ${what}; ${yours}`;
  throw new GridError('FORBIDDEN', text, { element });
}
