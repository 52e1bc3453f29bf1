import { readdir, readFile, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import json5 from 'json5';
import { z } from 'zod';
import {
  IdbApplication,
  IdbInfo,
  IdbPartitions,
  IdbResources,
  twiceNamed,
} from '#imagerepo/contract.js';
import { describeIssues } from '#kernel/config.js';
import { errorText, GridError } from '#kernel/errors.js';
import { toPartitions, type Partition } from './idb.js';
import { scriptHeaderKeys, toScriptHeader, type ScriptHeader } from './script-header.js';

export class IdbError extends GridError<'IDB_INVALID'> {}

/** What the site's own IDB says, for every target system. */
export type SiteIdb = {
  readonly applications: readonly IdbApplication[];
  /** The default first; none: the target systems' own. */
  readonly partitions: readonly Partition[];
  readonly info: Readonly<Record<string, string>>;
  readonly scriptHeader: ScriptHeader;
  readonly allowUserExecutable: boolean;
};

const largestFileBytes = 4 * 1024 * 1024;
const mostFiles = 1_000;
const deepest = 32;

const Applications = z.array(IdbApplication).max(5_000);
const MainFile = z.strictObject({
  Partitions: IdbPartitions.default({}),
  Applications: Applications.default([]),
  /** In every partition. */
  Resources: IdbResources.optional(),
  Info: IdbInfo.default({}),
  ...scriptHeaderKeys,
});
type MainFile = z.output<typeof MainFile>;
const ApplicationsFile = z.strictObject({ Applications });

export type IdbFiles = {
  /** A file, or a directory of them. */
  readonly path: string;
  /** Name of the file in a directory that is the main one. */
  readonly main?: string | undefined;
};

/** Changes whenever the content may have. @throws `IDB_INVALID` */
export async function idbVersion({ path }: IdbFiles): Promise<string> {
  const versions = await Promise.all(
    (await listFiles(path)).map(async (file) => {
      const { mtimeMs, size, ino } = await stat(file);
      return `${file} ${mtimeMs} ${size} ${ino}`;
    }),
  );
  return versions.join('\n');
}

/** @throws {@link IdbError} `IDB_INVALID` naming the file, the place in it and the reason */
export async function readSiteIdb(files: IdbFiles): Promise<Omit<SiteIdb, 'allowUserExecutable'>> {
  const paths = await listFiles(files.path);
  const contents = await Promise.all(
    paths.map(async (path) => ({ path, raw: parseIdbText(path, await readLimited(path)) })),
  );
  const main = chooseMain(files, contents);
  const top: MainFile = main ? check(main.path, MainFile, main.raw) : MainFile.parse({});
  const others = contents
    .filter((file) => file !== main)
    .flatMap(({ path, raw }) => parseApplications(path, raw));
  const applications = [...top.Applications, ...others];
  const twice = twiceNamed(applications);
  if (twice !== undefined) throw invalid(files.path, `the application ${twice} is there twice`);
  return {
    applications,
    partitions: toPartitions(top.Partitions).map((partition) => ({
      ...partition,
      resources: { ...top.Resources, ...partition.resources },
    })),
    info: top.Info,
    scriptHeader: toScriptHeader(top),
  };
}

/** JSON as UNICORE's parser takes it: trailing commas, bare keys, single quotes, and comments. */
export function parseIdbText(path: string, text: string): unknown {
  let value: unknown;
  try {
    value = json5.parse(text);
  } catch (cause) {
    throw invalid(path, `is no JSON: ${errorText(cause).replace(/^JSON5: /, '')}`, cause);
  }
  if (depthOf(value) > deepest) throw invalid(path, `is deeper than ${deepest} levels`);
  return value;
}

/** A file of applications: an array of them in `Applications`, or one at top level. */
export function parseApplications(path: string, raw: unknown): IdbApplication[] {
  const isList = typeof raw === 'object' && raw !== null && 'Applications' in raw;
  if (isList) return check(path, ApplicationsFile, raw).Applications;
  return [check(path, IdbApplication, raw)];
}

type Content = { readonly path: string; readonly raw: unknown };

/** What makes a file of a directory the main one. */
const mainKeys = ['Partitions', 'Info', ...Object.keys(scriptHeaderKeys)];

/** A single file is the main one; in a directory the one that is named, or says more than applications. */
function chooseMain({ path, main }: IdbFiles, contents: readonly Content[]): Content | undefined {
  const [only] = contents;
  if (contents.length === 1 && only?.path === path) return only;
  if (main !== undefined) {
    const named = contents.find((file) => basename(file.path) === main);
    if (!named) throw invalid(path, `has no file ${main}, which is to be the main one`);
    return named;
  }
  const candidates = contents.filter(
    ({ raw }) =>
      typeof raw === 'object' && raw !== null && mainKeys.some((key) => Object.hasOwn(raw, key)),
  );
  if (candidates.length > 1)
    throw invalid(
      path,
      `has more than one main file (one with ${mainKeys.join(', ')}): ${candidates.map((file) => basename(file.path)).join(', ')}`,
    );
  return candidates[0];
}

async function listFiles(path: string): Promise<string[]> {
  try {
    if (!(await stat(path)).isDirectory()) return [path];
    const entries = await readdir(path, { withFileTypes: true });
    const names = entries
      .filter((entry) => !entry.isDirectory())
      .map(({ name }) => name)
      .filter((name) => !name.startsWith('.') && !name.endsWith('~'))
      .sort();
    if (names.length > mostFiles) throw invalid(path, `holds more than ${mostFiles} files`);
    return names.map((name) => join(path, name));
  } catch (cause) {
    if (cause instanceof IdbError) throw cause;
    throw invalid(path, `cannot be read: ${errorText(cause)}`, cause);
  }
}

async function readLimited(path: string): Promise<string> {
  try {
    const { size } = await stat(path);
    if (size > largestFileBytes) throw invalid(path, `is larger than ${largestFileBytes} bytes`);
    return await readFile(path, 'utf8');
  } catch (cause) {
    if (cause instanceof IdbError) throw cause;
    throw invalid(path, `cannot be read: ${errorText(cause)}`, cause);
  }
}

function check<Schema extends z.ZodType>(
  path: string,
  schema: Schema,
  raw: unknown,
): z.output<Schema> {
  const result = schema.safeParse(raw);
  if (result.success) return result.data;
  throw invalid(path, describeIssues(result.error));
}

function invalid(path: string, reason: string, cause?: unknown): IdbError {
  return new IdbError('IDB_INVALID', `${path}: ${reason}`, { path }, { cause });
}

function depthOf(value: unknown, depth = 0): number {
  if (typeof value !== 'object' || value === null || depth > deepest) return depth;
  return Math.max(depth, ...Object.values(value).map((member) => depthOf(member, depth + 1)));
}
