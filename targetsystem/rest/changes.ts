import type { z } from 'zod';
import { describeIssues } from '#kernel/config.js';

/*
 * `PUT` of properties (unicore-rest 1.9): each member answers for itself, unknown ones do not fail the
 * call.
 */

/** Notes what a member asks for. @returns the member's answer */
export type Member<Change> = (value: unknown, change: Partial<Change>) => string;
/** What a PUT may name. */
export type Changeable<Change> = Readonly<Record<string, Member<Change>>>;

export const refusedMember = (reason: string): string => `Error setting property: ${reason}`;
const unknownMember = 'Property not found or cannot be modified!';

/** One whose value has a schema. */
export function member<T, Change>(
  schema: z.ZodType<T>,
  note: (change: Partial<Change>, value: T) => void,
): Member<Change> {
  return (value, change) => {
    const parsed = schema.safeParse(value);
    if (!parsed.success) return refusedMember(describeIssues(parsed.error));
    note(change, parsed.data);
    return 'OK';
  };
}

/** What is asked for, and what each member is answered if that can be done. */
export function readChange<Change extends object>(
  members: Readonly<Record<string, unknown>>,
  changeable: Changeable<Change>,
): { change: Partial<Change>; answers: Record<string, string> } {
  const change: Partial<Change> = {};
  const answers = Object.entries(members).map(([name, value]): [string, string] => {
    const take = Object.hasOwn(changeable, name) ? changeable[name] : undefined;
    return [name, take?.(value, change) ?? unknownMember];
  });
  return { change, answers: Object.fromEntries(answers) };
}

/**
 * Changes what can be changed.
 * @param apply is not called where nothing is to be changed
 * @returns what each member is answered
 */
export async function changeMembers<Change extends object>(
  members: Readonly<Record<string, unknown>>,
  changeable: Changeable<Change>,
  apply: (change: Partial<Change>) => Promise<unknown>,
): Promise<Record<string, string>> {
  const { change, answers } = readChange(members, changeable);
  if (Object.keys(change).length > 0) await apply(change);
  return answers;
}
