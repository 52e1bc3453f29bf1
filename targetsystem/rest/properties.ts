import { z } from 'zod';
import { formatDate } from '#kernel/clock.js';
import { describeIssues } from '#kernel/config.js';
import { RequestError } from '#kernel/http/operation.js';
import { json, type Reply } from '#kernel/http/reply.js';
import { parseDate } from '#kernel/dates.js';

/** What every owned resource shows (unicore-rest 1.8). `terminationTime` absent: never expires. */
export function ownedProperties(resource: {
  readonly ownerDn: string;
  readonly tags: readonly string[];
  readonly terminationMs?: number | undefined;
}): Record<string, unknown> {
  const { ownerDn, tags, terminationMs } = resource;
  return {
    owner: ownerDn,
    acl: [],
    tags,
    ...(terminationMs !== undefined && { terminationTime: formatDate(terminationMs) }),
  };
}

const tag = z.string().regex(/^[^\0\r\n]{1,128}$/, 'must have 1 to 128 characters, on one line');

/** A list of tags, or one text that separates them by blanks, `+` or commas; each is kept once. */
export const tagList = z
  .union([z.array(z.string()), z.string()], 'must be a list of texts')
  .transform((tags) => (Array.isArray(tags) ? tags : tags.split(/[\s+,]+/).filter(Boolean)))
  .transform((tags) => [...new Set(tags)])
  .pipe(z.array(tag).max(100, 'must be at most 100 tags'));

/** A date in a request (unicore-rest 1.4), as ms since the epoch. */
export const dateText = z.string().transform((text, context) => {
  const ms = parseDate(text, Date.now());
  if (ms !== undefined) return ms;
  context.addIssue('must be a date such as 2026-06-17T14:54:15+0200');
  return z.NEVER;
});

/** Properties that their owner may change; what a PUT may name. */
const changeable = { tags: tagList, terminationTime: dateText };
export type PropertyChange = { tags?: readonly string[]; terminationMs?: number };

/** @throws {@link RequestError} `BAD_REQUEST` when a time is later than the site allows */
export function checkTermination(ms: number, latestMs: number): void {
  if (ms > latestMs) throw new RequestError('BAD_REQUEST', `terminationTime: ${tooLate(latestMs)}`);
}

const tooLate = (latestMs: number): string =>
  `must not be later than ${formatDate(latestMs)}, the longest life time of this site`;

/**
 * `PUT` of properties (unicore-rest 1.9): each member answers for itself, unknown ones do not fail the
 * call.
 */
export async function changeProperties(
  members: Readonly<Record<string, unknown>>,
  apply: (change: PropertyChange) => Promise<unknown>,
  latestMs = Number.POSITIVE_INFINITY,
): Promise<Reply> {
  const change: PropertyChange = {};
  const answers = Object.entries(members).map(([name, value]): [string, string] => {
    if (name !== 'tags' && name !== 'terminationTime')
      return [name, 'Property not found or cannot be modified!'];
    const result = changeable[name].safeParse(value);
    if (!result.success) return [name, `Error setting property: ${describeIssues(result.error)}`];
    if (typeof result.data === 'number') {
      if (result.data > latestMs) return [name, `Error setting property: ${tooLate(latestMs)}`];
      change.terminationMs = result.data;
    } else change.tags = result.data;
    return [name, 'OK'];
  });
  if (Object.keys(change).length > 0) await apply(change);
  return json(Object.fromEntries(answers));
}
