import { z } from 'zod';
import { describeIssues } from '#kernel/config.js';
import { exportEntries, importEntries } from '../staging/entries.js';
import {
  fileName,
  flag,
  isMap,
  line,
  lines,
  noNul,
  noNulError,
  scalar,
  text,
} from './description-scalars.js';
import { JobError } from './errors.js';

/** JSON as the client sent it. Only what `parseDescription` reads of it has any meaning. */
export type RawDescription = Readonly<Record<string, unknown>>;

const variableName = /^[A-Za-z_][A-Za-z0-9_]*$/;
const names = z
  .array(line.refine(({ length }) => length > 0 && length <= 128, 'must have 1 to 128 characters'))
  .max(100);

const variables = z
  .record(z.string().regex(variableName, 'must be a variable name'), text)
  .default({});
/** Java clients send a list of `K=V`. */
const environment = z.preprocess(
  (value) =>
    Array.isArray(value) && value.every((entry) => typeof entry === 'string')
      ? Object.fromEntries(value.map(splitAssignment))
      : value,
  variables,
);
const parameters = z
  .record(z.string().regex(variableName, 'must be a variable name'), scalar(parameterError))
  .default({});

const jobTypes = {
  BATCH: 'BATCH',
  NORMAL: 'BATCH',
  ON_LOGIN_NODE: 'ON_LOGIN_NODE',
  INTERACTIVE: 'ON_LOGIN_NODE',
} as const;
const jobType = z
  .string()
  .transform((value, context) => {
    const type = (jobTypes as Partial<Record<string, JobType>>)[value.toUpperCase()];
    if (type) return type;
    context.addIssue(
      `${value} jobs are not offered here; offered are ${Object.keys(jobTypes).join(', ')}`,
    );
    return z.NEVER;
  })
  .default('BATCH');
export type JobType = (typeof jobTypes)[keyof typeof jobTypes];

const octalMask = text.refine((value) => /^[0-7]{1,4}$/.test(value), 'must be octal, such as 077');

/** Keys as on the wire (unicore-rest 3.6.1); unknown ones are ignored, `null` has become absent. */
const schema = z.object({
  Name: line.optional(),
  ApplicationName: line.optional(),
  ApplicationVersion: line.optional(),
  Executable: text.optional(),
  Arguments: z.array(z.string('must be a string').refine(noNul, noNulError)).default([]),
  Environment: environment,
  Parameters: parameters,
  Stdin: fileName.optional(),
  Stdout: fileName.default('stdout'),
  Stderr: fileName.default('stderr'),
  IgnoreNonZeroExitCode: flag.default(false),
  'User precommand': lines.optional(),
  'User postcommand': lines.optional(),
  RunUserPrecommandOnLoginNode: flag.default(true),
  UserPrecommandIgnoreNonZeroExitCode: flag.default(false),
  Resources: z.record(z.string(), line).default({}),
  Project: line.optional(),
  'User email': line.optional(),
  Imports: importEntries,
  Exports: exportEntries,
  haveClientStageIn: flag.default(false),
  'Job type': jobType,
  Tags: names.optional(),
  tags: names.optional(),
  Umask: octalMask.optional(),
  umask: octalMask.optional(),
});

/** What a job asks for, in one form whatever way the client wrote it. */
export type JobDescription = Readonly<z.output<typeof schema>>;

/** @throws {@link JobError} `JOB_INVALID` naming each wrong field and the reason */
export function parseDescription(raw: RawDescription): JobDescription {
  const result = schema.safeParse(withoutNulls(raw));
  if (result.success) return result.data;
  throw new JobError('JOB_INVALID', `Invalid job description: ${describeIssues(result.error)}`);
}

export function jobName(description: JobDescription): string {
  return description.Name ?? description.ApplicationName ?? 'UNICORE_Job';
}

export function jobTags(description: JobDescription): readonly string[] {
  return [...new Set(description.Tags ?? description.tags ?? [])];
}

/** What is shown and kept of a description once its files are staged: inline data is cut out. */
export function withoutInlineData(raw: RawDescription): RawDescription {
  const strip = (entry: unknown): unknown =>
    isMap(entry) && entry['Data'] !== undefined ? { ...entry, Data: 'n/a' } : entry;
  const imports = raw['Imports'];
  if (Array.isArray(imports)) return { ...raw, Imports: imports.map(strip) };
  if (!isMap(imports)) return raw;
  return {
    ...raw,
    Imports: Object.fromEntries(Object.entries(imports).map(([name, e]) => [name, strip(e)])),
  };
}

function splitAssignment(entry: string): [string, string] {
  const at = entry.indexOf('=');
  return at < 0 ? [entry, ''] : [entry.slice(0, at), entry.slice(at + 1)];
}

function parameterError(value: unknown): string {
  return typeof value === 'object' ? 'parameter sweeps are not offered here' : 'must be a string';
}

function withoutNulls(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(withoutNulls);
  if (!isMap(value)) return value;
  return Object.fromEntries(
    Object.entries(value).flatMap(([key, member]) =>
      member === null ? [] : [[key, withoutNulls(member)]],
    ),
  );
}
