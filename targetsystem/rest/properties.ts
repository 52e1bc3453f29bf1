import { z } from 'zod';
import { formatDate } from '#kernel/clock.js';
import { parseDate } from '#kernel/dates.js';
import { errorText } from '#kernel/errors.js';
import { parseAcl } from '#kernel/security/acl.js';
import type { owned, Rendered } from './answers.js';
import { member, refusedMember, type Changeable, type Member } from './changes.js';

/** What every owned resource shows (unicore-rest 1.8). `terminationTime` absent: never expires. */
export function ownedProperties(resource: {
  readonly ownerDn: string;
  readonly acl?: readonly string[] | undefined;
  readonly tags: readonly string[];
  readonly terminationMs?: number | undefined;
}): Omit<Rendered<z.ZodObject<typeof owned>>, '_links'> {
  const { ownerDn, acl = [], tags, terminationMs } = resource;
  return {
    owner: ownerDn,
    acl,
    tags,
    ...(terminationMs !== undefined && { terminationTime: formatDate(terminationMs) }),
  };
}

const tag = z.string().regex(/^[^\0\r\n]{1,128}$/, 'must have 1 to 128 characters, on one line');

/** Numbers and truth values are taken as texts (unicore-rest 1.6). */
const scalarText = z.union([z.string(), z.number(), z.boolean()]).transform(String);

/** A list of tags, or one text that separates them by blanks, `+` or commas; each is kept once. */
export const tagList = z
  .union([z.array(scalarText), scalarText], 'must be a list of texts')
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

/** `["read:DN:CN=Bob,O=Grid", "write:GROUP:physics"]`, or one such text (unicore-rest 1.8). */
export const aclList = z.unknown().transform((value, context) => {
  try {
    return parseAcl(value);
  } catch (error) {
    context.addIssue(errorText(error));
    return z.NEVER;
  }
});

export type PropertyChange = {
  tags: readonly string[];
  acl: readonly string[];
  terminationMs: number;
};

export const tagsMember = member<readonly string[], { tags: readonly string[] }>(
  tagList,
  (change, tags) => (change.tags = tags),
);

const changeAcl = member<readonly string[], { acl: readonly string[] }>(
  aclList,
  (change, acl) => (change.acl = acl),
);
/** Only its owner says what others may do. */
export const aclMember =
  (isOwner: boolean): Member<{ acl: readonly string[] }> =>
  (value, change) =>
    isOwner ? changeAcl(value, change) : refusedMember('only the owner may change the ACL');

/** @param tooLate what is answered to a time after `latestMs` */
export const terminationMember = (
  latestMs: number,
  tooLate: () => string,
): Member<{ terminationMs: number }> =>
  member(
    dateText.refine((ms) => ms <= latestMs, { error: tooLate }),
    (change, ms) => (change.terminationMs = ms),
  );

const afterLatest = (latestMs: number): string =>
  `must not be later than ${formatDate(latestMs)}, the longest life time of this site`;

/**
 * What a `PUT` may name of a resource that has an owner.
 * @param isOwner the caller may say what others may do
 */
export function ownedMembers(isOwner: boolean, latestMs = Infinity): Changeable<PropertyChange> {
  return {
    tags: tagsMember,
    acl: aclMember(isOwner),
    terminationTime: terminationMember(latestMs, () => afterLatest(latestMs)),
  };
}
