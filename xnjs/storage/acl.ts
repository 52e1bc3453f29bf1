import { GridError } from '#kernel/errors.js';
import type { Caller } from '#kernel/http/caller.js';
import { attributesOf } from '#kernel/security/caller.js';
import { equalDns, normalizeDn } from '#kernel/security/dn.js';
import type { Storage } from './storage.js';

/** What may be done: look, change files, change the storage (unicore-rest 2.11). */
const levels = ['read', 'write', 'modify'] as const;
export type AccessLevel = (typeof levels)[number];

const entryPattern = /^(read|write|modify):(DN|GROUP|ROLE|UID|VO):([^\0\r\n]{1,1000})$/;
const maxEntries = 100;

/** @throws `BAD_REQUEST` naming the entry */
export function parseAcl(value: unknown): readonly string[] {
  const entries: unknown[] = Array.isArray(value) ? value : [value];
  if (entries.length > maxEntries)
    throw new GridError('BAD_REQUEST', `an ACL has at most ${maxEntries} entries`);
  return [...new Set(entries.map(parseEntry))];
}

function parseEntry(entry: unknown): string {
  const [, level, type, subject = ''] =
    typeof entry === 'string' ? (entryPattern.exec(entry.trim()) ?? []) : [];
  if (level === undefined)
    throw new GridError(
      'BAD_REQUEST',
      `${JSON.stringify(entry).slice(0, 100)} is no ACL entry such as read:DN:CN=Alice or write:GROUP:physics`,
    );
  return `${level}:${type}:${type === 'DN' ? normalizeDn(subject) : subject}`;
}

/** Owner and administrators may do everything, those whom the ACL names as much as it says. */
export function isAllowed(
  storage: Pick<Storage, 'ownerDn' | 'acl'>,
  caller: Caller,
  level: AccessLevel,
): boolean {
  if (caller.role === 'admin') return true;
  if (caller.role === 'anonymous' || caller.role === 'banned') return false;
  return isOwner(storage, caller) || storage.acl.some((entry) => grants(entry, caller, level));
}

/** Also an administrator. */
export function isOwner({ ownerDn }: Pick<Storage, 'ownerDn'>, caller: Caller): boolean {
  if (caller.role === 'admin') return true;
  return ownerDn !== undefined && caller.role !== 'anonymous' && isSame(caller.dn, ownerDn);
}

function grants(entry: string, caller: Caller, level: AccessLevel): boolean {
  const [, granted, type, subject = ''] = entryPattern.exec(entry) ?? [];
  if (levels.indexOf(granted as AccessLevel) < levels.indexOf(level)) return false; // -1 for none
  switch (type) {
    case 'DN':
      return isSame(caller.dn, subject);
    case 'ROLE':
      return caller.role === subject;
    case 'UID':
      return caller.login === subject;
    case 'GROUP':
      return attributesOf(caller).groups.includes(subject);
    default:
      return false; // nobody here is known to belong to a virtual organisation
  }
}

/** The common case first: names that we wrote are spelt alike. */
function isSame(a: string, b: string): boolean {
  return a === b || equalDns(a, b);
}
