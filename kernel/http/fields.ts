import { z } from 'zod';

const listSeparator = /[\s+,]+/;

/** A list in a query: separated by blanks, `+` or commas, encoded once more by some clients. */
export const listParameter = z
  .string()
  .max(4096)
  .transform((text, context) => {
    try {
      const list = decodeURIComponent(text);
      if (!list.includes('\0')) return list.split(listSeparator).filter(Boolean);
      context.addIssue('must not contain NUL');
      return z.NEVER;
    } catch {
      context.addIssue('is not URL encoded text');
      return z.NEVER;
    }
  });

/** `?fields=a,b,!c` (unicore-rest 1.8). */
export const fieldsParameter = listParameter.optional();

/** Names select, names with `!` are left out; `_links` is a member like any other. */
export function selectFields(
  properties: Readonly<Record<string, unknown>>,
  fields: readonly string[] = [],
): Readonly<Record<string, unknown>> {
  if (fields.length === 0) return properties;
  const wanted = new Set(fields.filter((name) => !name.startsWith('!')));
  const unwanted = new Set(fields.filter((n) => n.startsWith('!')).map((name) => name.slice(1)));
  const chosen = Object.entries(properties).filter(
    ([name]) => (wanted.size === 0 || wanted.has(name)) && !unwanted.has(name),
  );
  return Object.fromEntries(chosen);
}
