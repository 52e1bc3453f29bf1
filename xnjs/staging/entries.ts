import { z } from 'zod';
import { fileName, flag, isLine, isMap, line, lines, scalar } from '../job/description-scalars.js';
import { digestPattern } from './digest.js';
import { protocolOf, schemeOf } from './protocols.js';
import { withoutUserInfo } from './url.js';

/** How a transfer proves to the other side who asks. */
const credentials = z
  .looseObject({
    Username: line.optional(),
    Password: line.optional(),
    BearerToken: line.optional(),
    Token: line.optional(),
  })
  .transform((given, context): Credentials => {
    if (given.Username !== undefined)
      return { kind: 'basic', username: given.Username, password: given.Password ?? '' };
    if (given.BearerToken === '')
      context.addIssue(
        'BearerToken: must not be empty; the token of your own login is not kept here',
      );
    if (given.BearerToken !== undefined) return { kind: 'bearer', token: given.BearerToken };
    if (given.Token !== undefined) return { kind: 'token', token: given.Token };
    context.addIssue('must have Username and Password, BearerToken or Token');
    return z.NEVER;
  });
export type Credentials =
  | { readonly kind: 'basic'; readonly username: string; readonly password: string }
  | { readonly kind: 'bearer' | 'token'; readonly token: string };

const permissions = z
  .string()
  .regex(/^([r-][w-][x-]){1,3}$/, 'must be one to three groups of rwx, such as rwx or rw-r-----');
const mode = z
  .string()
  .toLowerCase()
  .pipe(z.enum(['overwrite', 'append', 'nooverwrite'], 'must be overwrite, append or nooverwrite'))
  .default('overwrite');
const parameters = z
  .record(
    z.string(),
    scalar(() => 'must be a string'),
  )
  .default({})
  .refine(
    ({ checksum }) => checksum === undefined || digestPattern.test(checksum),
    'checksum: must be an algorithm and hexadecimal digits, such as sha256:9f86d0…',
  );
const source = scalar((value) =>
  Array.isArray(value) ? 'parameter sweeps are not offered here' : 'must be a string',
).refine(isLine, 'must be one line');

const common = {
  Mode: mode,
  FailOnError: flag.default(true),
  Credentials: credentials.optional(),
  ExtraParameters: parameters,
  'Login node': line.optional(),
  DeleteOnTermination: flag.default(false),
};

/** An element of `Imports` (tsi-xnjs 7.1, unicore-rest 3.6.3). */
const importEntry = z
  .looseObject({
    ...common,
    From: source.optional(),
    source: source.optional(),
    To: fileName.optional(),
    file: fileName.optional(),
    Data: lines.optional(),
    ReadOnly: flag.default(false),
    Permissions: permissions.optional(),
  })
  .transform((entry, context): ImportEntry => {
    const given = entry.From ?? entry.source ?? '';
    const to = entry.To ?? entry.file ?? '';
    if (to === '') context.addIssue('To: must name a file');
    if (entry.Data === undefined && entry.FailOnError)
      refuseUnknown(given, 'From', 'import', context);
    return {
      from: entry.Data === undefined ? given : 'inline:',
      to,
      data: entry.Data,
      mode: entry.Mode,
      failOnError: entry.FailOnError,
      deleteOnTermination: entry.DeleteOnTermination,
      readOnly: entry.ReadOnly,
      permissions: entry.Permissions,
      credentials: entry.Credentials,
      parameters: entry.ExtraParameters,
    };
  });

const exportEntry = z
  .looseObject({
    ...common,
    From: fileName.optional(),
    source: fileName.optional(),
    file: fileName.optional(),
    To: line.optional(),
    target: line.optional(),
  })
  .transform((entry, context): ExportEntry => {
    const from = entry.From ?? entry.source ?? entry.file ?? '';
    const to = entry.To ?? entry.target ?? '';
    if (from === '') context.addIssue('From: must name a file');
    if (entry.FailOnError) refuseUnknown(to, 'To', 'export', context);
    return {
      from,
      to,
      mode: entry.Mode,
      failOnError: entry.FailOnError,
      deleteOnTermination: entry.DeleteOnTermination,
      credentials: entry.Credentials,
      parameters: entry.ExtraParameters,
    };
  });

/** What a transfer is asked to do, in one form whatever way the client wrote it. */
type Entry = {
  readonly mode: 'overwrite' | 'append' | 'nooverwrite';
  readonly failOnError: boolean;
  /** The file in the job's directory goes when the job has succeeded and its exports are made. */
  readonly deleteOnTermination: boolean;
  readonly credentials: Credentials | undefined;
  readonly parameters: Readonly<Record<string, string>>;
};
/** `from` is a URL, `to` a path in the job's directory; one that ends in `/` is a directory. */
export type ImportEntry = Entry & {
  readonly from: string;
  readonly to: string;
  readonly data: string | undefined;
  readonly readOnly: boolean;
  readonly permissions: string | undefined;
};
/** `from` is a path in the job's directory, `to` a URL. */
export type ExportEntry = Entry & { readonly from: string; readonly to: string };

/** `Imports` and `Exports` of a job description: a list, or a map from local name to element. */
export const importEntries = listOrMap(importEntry, 'To');
export const exportEntries = listOrMap(exportEntry, 'From');

/** A description as it may be shown: credentials of transfers stay between the user and their servers. */
export function withoutCredentials(
  raw: Readonly<Record<string, unknown>>,
): Readonly<Record<string, unknown>> {
  const shown = ['Imports', 'Exports'].filter((key) => key in raw);
  return { ...raw, ...Object.fromEntries(shown.map((key) => [key, concealed(raw[key])])) };
}

function concealed(entries: unknown): unknown {
  if (Array.isArray(entries)) return entries.map(concealedEntry);
  if (!isMap(entries)) return entries;
  return Object.fromEntries(
    Object.entries(entries).map(([name, entry]) => [name, concealedEntry(entry)]),
  );
}

const urls = ['From', 'source', 'To', 'target'];

function concealedEntry(entry: unknown): unknown {
  if (!isMap(entry)) return entry;
  return Object.fromEntries(
    Object.entries(entry).map(([key, value]) => {
      if (key === 'Credentials' && value !== undefined) return [key, 'n/a'];
      const isUrl = urls.includes(key) && typeof value === 'string';
      return [key, isUrl ? withoutUserInfo(value) : value];
    }),
  );
}

function refuseUnknown(
  url: string,
  field: string,
  direction: 'import' | 'export',
  context: z.RefinementCtx,
): void {
  if (protocolOf(url)?.[direction]) return;
  const scheme = schemeOf(url);
  context.addIssue(
    scheme === undefined
      ? `${field}: must be a URL, and is "${withoutUserInfo(url)}"`
      : `${field}: ${direction}s by "${scheme}" are not offered here`,
  );
}

function listOrMap<Schema extends z.ZodType>(entry: Schema, localName: string) {
  return z
    .preprocess(
      (value) =>
        isMap(value)
          ? Object.entries(value).map(([name, element]) =>
              isMap(element) ? { ...element, [localName]: name } : element,
            )
          : value,
      z.array(entry),
    )
    .default([]);
}
