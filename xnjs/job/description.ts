import { z } from 'zod';
import { describeIssues } from '#kernel/config.js';
import { parseDate } from '#kernel/dates.js';
import { imageResources, machineMembers, namesImage } from '../vm/image-wish.js';
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
import { defaultStatuses, type NotificationWish } from './notices.js';
import { isPattern } from './pattern.js';

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
  RAW: 'RAW',
  ALLOCATE: 'ALLOCATE',
} as const;
const jobType = z
  .string()
  .transform((value, context) => {
    const type = (jobTypes as Partial<Record<string, JobType>>)[value.toUpperCase()];
    if (type) return type;
    context.addIssue(`there are no ${value} jobs; there are: ${Object.keys(jobTypes).join(', ')}`);
    return z.NEVER;
  })
  .default('BATCH');
export type JobType = (typeof jobTypes)[keyof typeof jobTypes];

const octalMask = text.refine((value) => /^[0-7]{1,4}$/.test(value), 'must be octal, such as 077');

const date = text.refine(
  (value) => parseDate(value, 0) !== undefined,
  'must be a time: HH:mm, yyyy-MM-dd HH:mm or 2026-06-17T14:54:15+0200',
);

const longestPattern = 256;
const webAddress = line.refine(
  (value) => URL.canParse(value) && /^https?:$/.test(new URL(value).protocol),
  'must be a URL with http or https',
);
/** Java clients send a list with one address in it. */
const notification = z.preprocess(
  (value) => (Array.isArray(value) && value.length === 1 ? (value[0] as unknown) : value),
  webAddress.optional(),
);
const pattern = line
  .refine(
    ({ length }) => length <= longestPattern,
    `must have at most ${longestPattern} characters`,
  )
  .refine(isPattern, 'must be a regular expression without look-around and back references');
const notificationSettings = z.looseObject({
  URL: webAddress.optional(),
  status: z.array(line).max(20).optional(),
  bssStatus: z.array(pattern).max(20).optional(),
});

/** Keys as on the wire (unicore-rest 3.6.1); unknown ones are ignored, `null` has become absent. */
const keys = z.object({
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
  RunUserPostcommandOnLoginNode: flag.default(true),
  UserPrecommandIgnoreNonZeroExitCode: flag.default(false),
  UserPostcommandIgnoreNonZeroExitCode: flag.default(false),
  // as one client library spells them
  UserPrecommandIgnoreNonZeroExitcode: flag.default(false),
  UserPostcommandIgnoreNonZeroExitcode: flag.default(false),
  Resources: z.record(z.string(), line).default({}),
  Project: line.optional(),
  'User email': line.optional(),
  Imports: importEntries,
  Exports: exportEntries,
  haveClientStageIn: flag.default(false),
  'Job type': jobType,
  'BSS file': fileName.optional(),
  'Login node': line.optional(),
  'Not before': date.optional(),
  Notification: notification,
  NotificationSettings: notificationSettings.optional(),
  Tags: names.optional(),
  tags: names.optional(),
  Umask: octalMask.optional(),
  umask: octalMask.optional(),
});
const schema = keys.refine((job) => job['Job type'] !== 'RAW' || (job['BSS file'] ?? '') !== '', {
  path: ['BSS file'],
  message: 'must name the file with the directives of a RAW job',
});

/** What a job asks for, in one form whatever way the client wrote it. */
export type JobDescription = Readonly<z.output<typeof schema>>;

/** @throws {@link JobError} `JOB_INVALID` naming each wrong field and the reason */
export function parseDescription(raw: RawDescription): JobDescription {
  const result = schema.safeParse(withoutMachine(withoutNulls(raw)));
  if (result.success) return result.data;
  throw new JobError('JOB_INVALID', `Invalid job description: ${describeIssues(result.error)}`);
}

/** Paths in the job's directory that are to go at its end. */
export function passingFiles({ Imports, Exports }: JobDescription): readonly string[] {
  const paths = [
    ...Imports.flatMap(({ to, deleteOnTermination }) => (deleteOnTermination ? [to] : [])),
    ...Exports.flatMap(({ from, deleteOnTermination }) => (deleteOnTermination ? [from] : [])),
  ];
  return [...new Set(paths)];
}

export function jobName(description: JobDescription): string {
  return description.Name ?? description.ApplicationName ?? 'UNICORE_Job';
}

/** Of what the client wants to be told; the settings win over the plain address (unicore-rest 3.7). */
export function notificationWish(job: JobDescription): NotificationWish | undefined {
  const settings = job.NotificationSettings;
  const url = settings?.URL ?? job.Notification;
  if (url === undefined) return undefined;
  const status = settings?.status?.map((word) => word.toUpperCase()) ?? defaultStatuses;
  return { url, status, bssStatus: settings?.bssStatus ?? [] };
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

/** What has decided about the machine that the job is on already (ADR 024). */
function withoutMachine(raw: unknown): unknown {
  if (!isMap(raw) || !isMap(raw['Resources'])) return raw;
  const { Resources: resources } = raw;
  const names: readonly string[] = namesImage(raw)
    ? [...machineMembers, ...imageResources]
    : machineMembers;
  const others = Object.entries(resources).filter(([name]) => !names.includes(name));
  return { ...raw, Resources: Object.fromEntries(others) };
}

function splitAssignment(entry: string): [string, string] {
  const at = entry.indexOf('=');
  return at < 0 ? [entry, ''] : [entry.slice(0, at), entry.slice(at + 1)];
}

function parameterError(value: unknown): string {
  return typeof value === 'object'
    ? 'must be a string, or the values of a sweep: {"Values": […]} or {"From", "To", "Step"}'
    : 'must be a string';
}

export function withoutNulls(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(withoutNulls);
  if (!isMap(value)) return value;
  return Object.fromEntries(
    Object.entries(value).flatMap(([key, member]) =>
      member === null ? [] : [[key, withoutNulls(member)]],
    ),
  );
}
