import { z } from 'zod';
import type { Caller } from '#kernel/http/caller.js';
import { listParameter } from '#kernel/http/fields.js';
import { pageParameters, renderPage, slicePage, type Page } from '#kernel/http/page.js';
import { json, type Reply } from '#kernel/http/reply.js';
import { findGrant } from '#kernel/security/acl.js';

/** Ours, as UNICORE has it for storages: an administrator's `filter=all` lists what all users have. */
export const listFilter = z
  .string()
  .toLowerCase()
  .pipe(z.literal('all'))
  .optional()
  .catch(undefined);
export type ListFilter = z.output<typeof listFilter>;

export function seesAll(caller: Caller, filter: ListFilter): boolean {
  return filter === 'all' && caller.role === 'admin';
}

/** The caller's own, those that others let him see, and all where an administrator asks for them. */
export function isListed(
  { ownerDn, acl = [] }: { readonly ownerDn: string; readonly acl?: readonly string[] },
  caller: Caller,
  filter: ListFilter,
): boolean {
  if (caller.role === 'anonymous') return false;
  if (ownerDn === caller.dn || seesAll(caller, filter)) return true;
  return findGrant(acl, caller, 'read') !== undefined;
}

/** Parameters of a list of resources, to be spread into an operation's input. */
export function listParameters(defaultNum?: number) {
  return { ...pageParameters(defaultNum), tags: listParameter.optional() };
}

export type ListWish = Page & {
  /** A resource has to have all of them. */
  readonly tags?: readonly string[] | undefined;
  readonly filter?: string | undefined;
};

/** A page of resources that are in memory already. */
export function selectPage<R extends { readonly tags: readonly string[] }>(
  resources: readonly R[],
  { tags = [], ...page }: ListWish,
): { found: readonly R[]; total: number } {
  const fitting = resources.filter((each) => tags.every((tag) => each.tags.includes(tag)));
  return { found: slicePage(fitting, page), total: fitting.length };
}

/** A page of addresses, with links to the other pages of the same list. */
export function renderList(
  url: string,
  { tags = [], filter, ...page }: ListWish,
  urls: readonly string[],
  total: number,
): Reply {
  const query = { tags: tags.length > 0 ? tags.join(',') : undefined, filter };
  return json(renderPage(url, page, urls, total, query));
}
