import { readFile } from 'node:fs/promises';
import { parse } from 'yaml';
import { z } from 'zod';
import { errorText, GridError } from '#kernel/errors.js';

export class ConfigError extends GridError<'CONFIG_INVALID'> {}

/** Path of a file that is read at start; secrets are always given this way. */
export const file = z.string().min(1);
export const port = z.int().min(0).max(65_535);
export const dn = z
  .string()
  .regex(/^\w+=/, 'must be a distinguished name such as CN=Server,O=Grid');

/** Reads a YAML file through its schema. @throws {@link ConfigError} naming file, field and reason */
export async function loadConfig<Schema extends z.ZodType>(
  path: string,
  schema: Schema,
): Promise<z.output<Schema>> {
  let raw: unknown;
  try {
    raw = parse(await readFile(path, 'utf8'));
  } catch (cause) {
    throw new ConfigError('CONFIG_INVALID', `${path}: ${errorText(cause)}`, { path }, { cause });
  }
  const result = schema.safeParse(raw);
  if (result.success) return result.data;
  throw new ConfigError('CONFIG_INVALID', `${path}: ${describeIssues(result.error)}`, { path });
}

/** `listen.port: expected number; tls: unrecognized key "x"`: one line, each field by its path. */
export function describeIssues(error: z.ZodError): string {
  return error.issues
    .map((issue) =>
      issue.path.length > 0 ? `${issue.path.join('.')}: ${reasonOf(issue)}` : reasonOf(issue),
    )
    .join('; ');
}

/** Of a wrong key the schema says only that it is one. */
function reasonOf(issue: z.core.$ZodIssue): string {
  return issue.code === 'invalid_key'
    ? `the name ${issue.issues.map(({ message }) => message).join(', ')}`
    : issue.message;
}
