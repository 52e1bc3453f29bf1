import { z } from 'zod';
import { formatDate } from '#kernel/clock.js';
import { describeIssues } from '#kernel/config.js';
import { RequestError } from '#kernel/http/operation.js';
import { json, type Reply } from '#kernel/http/reply.js';
import { parseDate } from '#kernel/dates.js';
import { errorText } from '#kernel/errors.js';
import { parseAcl } from '#kernel/security/acl.js';
import type { owned, Rendered } from './answers.js';

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

/** `["read:DN:CN=Bob,O=Grid", "write:GROUP:physics"]`, or one such text (unicore-rest 1.8). */
export const aclList = z.unknown().transform((value, context) => {
  try {
    return parseAcl(value);
  } catch (error) {
    context.addIssue(errorText(error));
    return z.NEVER;
  }
});
export const onlyOwner = 'only the owner may change the ACL';

export type PropertyChange = {
  tags?: readonly string[];
  acl?: readonly string[];
  terminationMs?: number;
};

/** Properties that a PUT may name: notes what is asked for. @throws ZodError */
const changeable: Readonly<Record<string, (value: unknown, change: PropertyChange) => void>> = {
  tags: (value, change) => (change.tags = tagList.parse(value)),
  acl: (value, change) => (change.acl = aclList.parse(value)),
  terminationTime: (value, change) => (change.terminationMs = dateText.parse(value)),
};

/** @throws {@link RequestError} `BAD_REQUEST` when a time is later than the site allows */
export function checkTermination(ms: number, latestMs: number): void {
  if (ms > latestMs) throw new RequestError('BAD_REQUEST', `terminationTime: ${tooLate(latestMs)}`);
}

const tooLate = (latestMs: number): string =>
  `must not be later than ${formatDate(latestMs)}, the longest life time of this site`;

/**
 * `PUT` of properties (unicore-rest 1.9): each member answers for itself, unknown ones do not fail the
 * call.
 * @param isOwner the caller may say what others may do
 */
export async function changeProperties(
  members: Readonly<Record<string, unknown>>,
  isOwner: boolean,
  apply: (change: PropertyChange) => Promise<unknown>,
  {
    latestMs = Number.POSITIVE_INFINITY,
    answered = {},
  }: {
    readonly latestMs?: number;
    /** Members that have their answers already. */
    readonly answered?: Readonly<Record<string, string>>;
  } = {},
): Promise<Reply> {
  const change: PropertyChange = {};
  const answers = Object.entries(members).map(([name, value]): [string, string] => {
    const note = Object.hasOwn(changeable, name) ? changeable[name] : undefined;
    if (!note) return [name, 'Property not found or cannot be modified!'];
    if (name === 'acl' && !isOwner) return [name, `Error setting property: ${onlyOwner}`];
    try {
      note(value, change);
    } catch (error) {
      if (!(error instanceof z.ZodError)) throw error;
      return [name, `Error setting property: ${describeIssues(error)}`];
    }
    if (name !== 'terminationTime' || (change.terminationMs ?? 0) <= latestMs) return [name, 'OK'];
    delete change.terminationMs;
    return [name, `Error setting property: ${tooLate(latestMs)}`];
  });
  if (Object.keys(change).length > 0) await apply(change);
  return json({ ...answered, ...Object.fromEntries(answers) });
}
