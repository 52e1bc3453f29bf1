import { z } from 'zod';
import type { Answer } from '#kernel/http/answers.js';
import type { ErrorCode } from '#kernel/errors.js';
import { date, FileEntry, owned, page, text, texts, urls } from './answers.js';
import { fileErrors } from './answers-errors.js';
import { bytesType } from './files-download.js';

/* What transfers, tasks and shares answer, as schemas: see `answers.ts`. */

export const TransferList = z.object({ transfers: urls, ...page });
export const ClientTransferList = z.object({ 'client-server-transfers': urls, ...page });
export const TaskList = z.object({ tasks: urls, ...page });

export const Transfer = z
  .object({
    ...owned,
    protocol: text,
    isExport: z.boolean().describe('From this storage to elsewhere'),
    source: text,
    target: text,
    status: z.enum(['CREATED', 'RUNNING', 'DONE', 'FAILED', 'ABORTED']),
    statusMessage: text,
    transferredBytes: z.number(),
    size: z.number().describe('-1 while it is not known'),
    files: z.record(z.string(), text).describe('By path at the target: RUNNING or DONE'),
    submissionTime: date,
    scheduledStartTime: date.optional(),
  })
  .meta({ id: 'Transfer', description: 'Between a storage and another server' });

export const ClientTransfer = z
  .object({
    ...owned,
    protocol: text,
    isExport: z.boolean(),
    source: text.optional().describe('Of an export: path in the storage'),
    target: text.optional().describe('Of an import: path in the storage'),
    extraParameters: z.record(z.string(), text),
    transferredBytes: z.number(),
  })
  .meta({ id: 'ClientTransfer', description: 'Between a client and a storage' });

/** What tells a client where to send a file to, or to fetch it from. */
export const ClientTransferBegun = z
  .object({
    protocol: text,
    parent: text.describe('Address of the storage'),
    isExport: z.enum(['true', 'false']),
    fileName: text.describe('Path in the storage'),
    accessURL: text.describe('Needs no login: whoever has it may use it'),
  })
  .meta({ id: 'ClientTransferBegun' });

export const VolumeList = z.object({ volumes: urls, ...page });
export const Volume = z
  .object({
    ...owned,
    name: text,
    sizeMiB: z.number(),
    state: z.enum(['AVAILABLE', 'IN_USE']).describe('IN_USE: a target system has it'),
    creationTime: date,
  })
  .meta({ id: 'Volume', description: 'A disk that outlives the target systems that have it' });

export const Task = z
  .object({
    ...owned,
    submissionTime: date,
    status: text,
    statusMessage: text,
    submissionService: text.describe('The resource that it was asked of'),
    exitCode: z.number().optional(),
    result: z.record(z.string(), text),
  })
  .meta({ id: 'Task' });
export const TaskBegun = z
  .object({
    status: z.literal('OK'),
    asyncExtraction: z.literal(true).optional(),
    taskHref: text.describe('Address of the task'),
  })
  .meta({ id: 'TaskBegun' });

const UserInfo = z.object({
  dn: text,
  uid: text.optional(),
  gid: text.optional(),
  groups: texts,
});
export const Share = z
  .object({
    id: text,
    user: text.describe('Whom it is for'),
    owner: text,
    path: text,
    access: z.enum(['READ', 'WRITE']),
    directory: z.boolean(),
    lifetime: z.number().describe('In seconds; 0: until it is ended'),
    onetime: z.boolean(),
    accessCount: z.number(),
    http: text.describe('Where its files are'),
    href: text,
    terminationTime: date.optional(),
    accesses: z
      .array(z.object({ time: date, dn: text, access: text, path: text }))
      .optional()
      .describe('Latest uses; for the owner'),
  })
  .meta({ id: 'Share', description: 'Files that others may use' });
export const ShareList = z.object({
  shares: z.array(Share).describe('Of the caller'),
  accessible: z.array(Share).describe('By others, for the caller'),
  status: text,
  userInfo: UserInfo,
});
export const ShareServers = z
  .object({ userInfo: UserInfo })
  .catchall(z.object({ href: text, description: text, status: text }));
export const SharedDirectory = z.object({
  isDirectory: z.literal(true),
  content: z.record(z.string(), FileEntry).describe('By path from what is shared'),
});

const bytesHeaders = {
  etag: 'Changes when the file does',
  'last-modified': 'When the file was changed last',
  'accept-ranges': 'bytes',
};
/** How files are answered by address alone. */
export const answersBytes = {
  200: { types: [bytesType], headers: bytesHeaders },
  206: { types: [bytesType], headers: { ...bytesHeaders, 'content-range': 'Which part it is' } },
  304: {},
} as const satisfies Record<number, Answer>;
export const downloadErrors: readonly ErrorCode[] = [
  ...fileErrors,
  'PRECONDITION_FAILED',
  'RANGE_NOT_SATISFIABLE',
];
/** What else goes wrong with something that each user has a number of. */
export const recordErrors: readonly ErrorCode[] = [...fileErrors, 'LIMIT_REACHED'];
