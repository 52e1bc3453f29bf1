import { z } from 'zod';
import { describeIssues } from '#kernel/config.js';
import { asGridError, errorText } from '#kernel/errors.js';
import { json, type Reply } from '#kernel/http/reply.js';
import type { Storage, StorageChange } from '#xnjs/index.js';
import { aclList, dateText, onlyOwner, tagList } from './properties.js';

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

const unknown = 'Property not found or cannot be modified!';
const failed = (reason: string): string => `Error setting property: ${reason}`;

/** What a PUT may name: checks the value and notes the change. @returns the member's answer */
const changeable: Readonly<
  Record<string, (value: unknown, change: Change, context: Context) => string>
> = {
  tags: (value, change) => take(tagList, value, (tags) => (change.tags = tags)),
  umask: (value, change) => take(octal, value, (umask) => (change.umask = umask)),
  description: (value, change) => take(line, value, (text) => (change.description = text)),
  acl: (value, change, { isOwner }) =>
    isOwner ? take(aclList, value, (entries) => (change.acl = entries)) : failed(onlyOwner),
  terminationTime: (value, change, { storage, latestMs = Infinity }) =>
    storage.kind === 'CREATED'
      ? take(
          dateText.refine((ms) => ms <= latestMs, 'is later than this type of storage may live'),
          value,
          (ms) => (change.terminationMs = ms),
        )
      : unknown,
};

function take<T>(schema: z.ZodType<T>, value: unknown, note: (value: T) => void): string {
  const parsed = schema.safeParse(value);
  if (!parsed.success) return failed(describeIssues(parsed.error));
  note(parsed.data);
  return 'OK';
}

/** `PUT` of a storage's properties (unicore-rest 1.9): each member answers for itself. */
export async function changeStorage(
  members: Readonly<Record<string, unknown>>,
  context: Context,
  apply: (change: StorageChange) => Promise<void>,
): Promise<Reply> {
  const change: Change = {};
  const answers = Object.entries(members).map(([name, value]): [string, string] => [
    name,
    Object.hasOwn(changeable, name)
      ? (changeable[name]?.(value, change, context) ?? unknown)
      : unknown,
  ]);
  if (Object.keys(change).length > 0)
    try {
      await apply(change);
    } catch (error) {
      if (asGridError(error)?.code !== 'BAD_REQUEST') throw error;
      return json(
        Object.fromEntries(
          answers.map(([name, answer]) => [
            name,
            answer === 'OK' ? failed(errorText(error)) : answer,
          ]),
        ),
      );
    }
  return json(Object.fromEntries(answers));
}
