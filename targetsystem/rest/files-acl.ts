import { RequestError } from '#kernel/http/operation.js';
import type { AclEntry } from '#xnjs/index.js';

/*
 * Access control lists of files, an extension of ours: texts as getfacl(1) writes them,
 * `user:alice:rw-`, `default:group:physics:r-x`.
 */

const pattern = /^(default:)?(user|group):([A-Za-z0-9_][\w.@-]{0,63}):([r-][w-][x-])$/;
const mostEntries = 100;

export function renderAclEntry({ type, subject, permissions, isDefault }: AclEntry): string {
  return `${isDefault ? 'default:' : ''}${type}:${subject}:${permissions}`;
}

/** @throws {@link RequestError} `BAD_REQUEST` naming the entry */
export function parseFileAcl(value: unknown): readonly AclEntry[] {
  const entries: unknown[] = Array.isArray(value) ? value : [value];
  if (entries.length > mostEntries)
    throw new RequestError('BAD_REQUEST', `an ACL has at most ${mostEntries} entries`);
  return entries.map((entry) => {
    const [, isDefault, type, subject, permissions] =
      typeof entry === 'string' ? (pattern.exec(entry) ?? []) : [];
    if ((type === 'user' || type === 'group') && subject && permissions)
      return { type, subject, permissions, isDefault: isDefault !== undefined };
    throw new RequestError(
      'BAD_REQUEST',
      `${JSON.stringify(entry).slice(0, 100)} is no ACL entry such as user:alice:rw-`,
    );
  });
}
