import { asGridError, errorText } from '#kernel/errors.js';
import { parseMetadata, writeMetadata, type FileSpace } from '#xnjs/index.js';
import { parseFileAcl } from './files-acl.js';

type Change = (files: FileSpace, path: string, value: unknown) => Promise<void>;

const text = (value: unknown): string =>
  typeof value === 'string' || typeof value === 'number' ? String(value) : '';

const changes: Readonly<Record<string, Change>> = {
  permissions: (files, path, value) => files.chmod(path, text(value)),
  group: (files, path, value) => files.chgrp(path, text(value)),
  metadata: async (files, path, value) => writeMetadata(files, path, parseMetadata(value)),
  acl: async (files, path, value) => files.setAcl(path, parseFileAcl(value)),
};
const aliases: Readonly<Record<string, string>> = { unixPermissions: 'permissions' };

/** What a target system or a host refuses is told of that member; trouble on the way there rises. */
const told: ReadonlySet<string> = new Set([
  'BAD_REQUEST',
  'FORBIDDEN',
  'NOT_IMPLEMENTED',
  'TOO_LARGE',
  'TSI_FAILED',
]);

/**
 * `PUT` of a file with JSON (unicore-rest 3.11.4): each member answers for itself.
 * @throws `NOT_FOUND` the file is not there
 */
export async function changeFile(
  files: FileSpace,
  path: string,
  members: object,
  hasMetadata: boolean,
): Promise<Record<string, string>> {
  await files.stat(path);
  const answers: Record<string, string> = {};
  for (const [member, value] of Object.entries(members) as [string, unknown][]) {
    const name = Object.hasOwn(aliases, member) ? (aliases[member] ?? member) : member;
    if (name === 'metadata' && !hasMetadata)
      answers[name] = 'Metadata is not supported for this storage.';
    else if (!Object.hasOwn(changes, name)) answers[name] = `FAILED: ${name} cannot be changed.`;
    else answers[name] = await answerOf(changes[name]?.(files, path, value));
  }
  return answers;
}

async function answerOf(work: Promise<void> | undefined): Promise<string> {
  try {
    await work;
    return 'OK';
  } catch (error) {
    if (!told.has(asGridError(error)?.code ?? '')) throw error;
    return `FAILED: ${errorText(error)}`;
  }
}
