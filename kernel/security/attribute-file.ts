import { readFile } from 'node:fs/promises';
import { RE2JS } from 're2js';
import { z } from 'zod';
import { describeIssues } from '#kernel/config.js';
import { errorText, GridError } from '#kernel/errors.js';
import { parseXml } from '#kernel/xml/parse.js';
import { attributeOf, childrenOf, textOf } from '#kernel/xml/read.js';
import type { AttributeSource, AttributeValues } from './attributes.js';
import { dnKey, normalizeDn } from './dn.js';
import { watchFile, type WatchOptions } from './watched-file.js';

const word = z.string().regex(/^[^\0\r\n,:]{1,128}$/, 'must be a name without commas or colons');
const values = z
  .union([z.string(), z.array(z.string())])
  .transform((value) => [value].flat())
  .pipe(z.array(word).max(200));

/** Members as UNICORE's file attribute source has them; others are for its policies and mean nothing here. */
const FileEntry = z.object({
  role: values.optional(),
  xlogin: values.optional(),
  group: values.optional(),
  supplementaryGroups: values.optional(),
  queue: values.optional(),
});
const FileContent = z.record(z.string().max(1024), FileEntry);

export type AttributeFileOptions = WatchOptions & {
  readonly path: string;
  /** Keys are names, or expressions that have to fit a whole name. */
  readonly matching: 'strict' | 'regexp';
};

type Rule = { readonly fits: (dn: string) => boolean; readonly values: AttributeValues };

/**
 * UNICORE's attribute file (`simpleuudb`), in its JSON or its XML form. A change counts within a second.
 * @throws `CONFIG_INVALID` when the first reading fails
 */
export async function openAttributeFile(options: AttributeFileOptions): Promise<AttributeSource> {
  const { path, matching } = options;
  const file = await watchFile(path, (from) => readRules(from, matching), options);
  return {
    name: `file ${path}`,
    async find({ dn }) {
      const { exact, rules } = await file.current();
      return exact.get(dnKey(dn)) ?? rules.find(({ fits }) => fits(dn))?.values;
    },
  };
}

type Rules = {
  readonly exact: ReadonlyMap<string, AttributeValues>;
  readonly rules: readonly Rule[];
};

async function readRules(path: string, matching: 'strict' | 'regexp'): Promise<Rules> {
  try {
    const text = (await readFile(path, 'utf8')).trim();
    const raw: unknown = text.startsWith('<') ? fromXml(text) : JSON.parse(text);
    const parsed = FileContent.safeParse(raw);
    if (!parsed.success) throw new TypeError(describeIssues(parsed.error));
    const entries = Object.entries(parsed.data);
    if (matching === 'regexp')
      return {
        exact: new Map(),
        rules: entries.map(([key, entry]) => toRule(key, toValues(entry))),
      };
    const exact = entries.map(([key, entry]) => {
      const dn = normalizeDn(key);
      return [dnKey(dn), { dn, ...toValues(entry) }] as const;
    });
    return { exact: new Map(exact), rules: [] };
  } catch (cause) {
    const text = `${path}: ${errorText(cause)}`;
    throw new GridError('CONFIG_INVALID', text, { path }, { cause });
  }
}

/** By an engine that takes no longer the worse an expression is. */
function toRule(expression: string, attributes: AttributeValues): Rule {
  const compiled = RE2JS.compile(expression, RE2JS.CASE_INSENSITIVE);
  return { fits: (dn) => compiled.matches(dn), values: attributes };
}

function toValues(entry: z.output<typeof FileEntry>): AttributeValues {
  const { role, xlogin, group, supplementaryGroups, queue } = entry;
  // a group that may be added is one that may be chosen
  const groups = [...(group ?? []), ...(supplementaryGroups ?? [])];
  return {
    ...(role && { roles: role }),
    ...(xlogin && { logins: xlogin }),
    ...(groups.length > 0 && { groups: [...new Set(groups)] }),
    ...(supplementaryGroups && { supplementaryGroups }),
    ...(queue && { queues: queue }),
  };
}

/** `<entry key="DN"><attribute name="role"><value>user</value>…`, whatever the namespace. */
function fromXml(text: string): Record<string, Record<string, string[]>> {
  const root = parseXml(text).documentElement;
  return Object.fromEntries(
    named(root, 'entry').map((entry) => [
      attributeOf(entry, 'key') ?? '',
      Object.fromEntries(
        named(entry, 'attribute').map((attribute) => [
          attributeOf(attribute, 'name') ?? '',
          named(attribute, 'value').map((value) => textOf(value).trim()),
        ]),
      ),
    ]),
  );
}

function named(parent: Element, name: string): Element[] {
  return childrenOf(parent).filter(({ localName }) => localName === name);
}
