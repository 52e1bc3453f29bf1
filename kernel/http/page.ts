import { z } from 'zod';

const largest = 10_000;

/** Paging of a list, to be spread into an operation's input (unicore-rest 1.7). */
export function pageParameters(defaultNum = 200) {
  return {
    offset: z.coerce.number().int().min(0).max(Number.MAX_SAFE_INTEGER).default(0),
    num: z.coerce
      .number()
      .int()
      .min(1)
      .default(defaultNum)
      .transform((num) => Math.min(num, largest)),
  };
}

export type Page = { readonly offset: number; readonly num: number };

/** The part of a list that is already in memory. */
export function slicePage<T>(items: readonly T[], { offset, num }: Page): readonly T[] {
  return items.slice(offset, offset + num);
}

/**
 * The answer to a list: the array's name is the last segment of the address, which UCC relies on.
 * @param url the list's address without query (`context.url`)
 * @param query further parameters that the links have to repeat
 */
export function renderPage(
  url: string,
  { offset, num }: Page,
  entries: readonly string[],
  total: number,
  query: Readonly<Record<string, string | undefined>> = {},
): Record<string, unknown> {
  const link = (at: number) => ({ href: `${url}/?${pageQuery(at, num, query)}` });
  return {
    [url.slice(url.lastIndexOf('/') + 1)]: entries,
    _links: {
      self: link(offset),
      ...(offset + num < total && { next: link(offset + num) }),
      ...(offset > 0 && { previous: link(Math.max(offset - num, 0)) }),
    },
  };
}

function pageQuery(
  offset: number,
  num: number,
  query: Readonly<Record<string, string | undefined>>,
) {
  const further = Object.entries(query).flatMap(([name, value]) =>
    value === undefined ? [] : [[name, value]],
  );
  return new URLSearchParams([['offset', `${offset}`], ['num', `${num}`], ...further]).toString();
}
