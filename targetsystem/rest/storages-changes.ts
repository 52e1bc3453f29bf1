import { z } from 'zod';
import { asGridError, errorText } from '#kernel/errors.js';
import { json, type Reply } from '#kernel/http/reply.js';
import type { Storage, StorageChange } from '#xnjs/index.js';
import { member, readChange, refusedMember, type Changeable } from './changes.js';
import { aclMember, tagsMember, terminationMember } from './properties.js';

const octal = z
  .union([z.string(), z.number()], 'must be octal')
  .transform(String)
  .pipe(z.string().regex(/^0?[0-7]{1,3}$/, 'must be octal, one to three digits'));
const line = z
  .string()
  .max(256)
  .regex(/^[^\0\r\n]*$/, 'must be one line');

type Change = { -readonly [Name in keyof StorageChange]: StorageChange[Name] };
type Context = {
  readonly storage: Storage;
  /** May change who else may do what. */
  readonly isOwner: boolean;
  /** The latest termination time that is allowed. */
  readonly latestMs: number | undefined;
};

function changeableOf({ storage, latestMs = Infinity, isOwner }: Context): Changeable<Change> {
  return {
    tags: tagsMember,
    umask: member(octal, (change, umask) => (change.umask = umask)),
    description: member(line, (change, text) => (change.description = text)),
    acl: aclMember(isOwner),
    // others live as long as their target system or job
    ...(storage.kind === 'CREATED' && {
      terminationTime: terminationMember(
        latestMs,
        () => 'is later than this type of storage may live',
      ),
    }),
  };
}

/** `PUT` of a storage's properties; what the storage itself refuses is told of each that was right. */
export async function changeStorage(
  members: Readonly<Record<string, unknown>>,
  context: Context,
  apply: (change: StorageChange) => Promise<void>,
): Promise<Reply> {
  const { change, answers } = readChange(members, changeableOf(context));
  if (Object.keys(change).length === 0) return json(answers);
  try {
    await apply(change);
    return json(answers);
  } catch (error) {
    if (asGridError(error)?.code !== 'BAD_REQUEST') throw error;
    const refused = Object.entries(answers).map(([name, answer]): [string, string] => [
      name,
      answer === 'OK' ? refusedMember(errorText(error)) : answer,
    ]);
    return json(Object.fromEntries(refused));
  }
}
