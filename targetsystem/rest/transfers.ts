import { z } from 'zod';
import { formatDate } from '#kernel/clock.js';
import { parseDate } from '#kernel/dates.js';
import { answersCreated } from '#kernel/http/answers.js';
import { operations, RequestError } from '#kernel/http/operation.js';
import { created } from '#kernel/http/reply.js';
import { principalOf, shownRemote, type ServerTransfer } from '#xnjs/index.js';
import { recordErrors, Transfer, TransferList } from './answers-data.js';
import type { RenderedBeside } from './answers.js';
import type { RestDeps } from './deps.js';
import { hrefs, linksFrom } from './links.js';
import { abortOperation, ownedOperations, type OwnedKind } from './owned-resource.js';
import { dateText, tagList } from './properties.js';
import { onStorage, storageInput } from './policy.js';

const operation = operations<RestDeps>();

/** As UNICORE's clients know them; those that they do not know have ended for them, too. */
const statusOf = {
  CREATED: 'CREATED',
  RUNNING: 'RUNNING',
  DONE: 'DONE',
  FAILED: 'FAILED',
  ABORTING: 'ABORTED',
  ABORTED: 'ABORTED',
  DESTROYING: 'ABORTED',
} as const;

const transfers: OwnedKind<ServerTransfer> = {
  collection: 'transfers',
  noun: 'transfer between servers',
  name: 'Transfer',
  answers: { one: Transfer, list: TransferList },
  service: ({ data }) => data.transfers,
  render: (transfer, { baseUrl }): RenderedBeside<typeof Transfer> => {
    const { id, direction, file, startMs, state, message } = transfer;
    const { url, protocol } = shownRemote(transfer);
    const links = linksFrom(baseUrl);
    const self = links.resource('transfers', id);
    return {
      protocol,
      isExport: direction === 'out',
      source: direction === 'in' ? url : file,
      target: direction === 'in' ? file : url,
      status: statusOf[state],
      statusMessage: message,
      transferredBytes: transfer.transferredBytes,
      size: state === 'CREATED' ? -1 : transfer.sizeBytes,
      files: transfer.files,
      submissionTime: formatDate(transfer.createdMs),
      ...(startMs !== undefined && { scheduledStartTime: formatDate(startMs) }),
      _links: hrefs({
        self,
        storage: links.storage(transfer.storageId),
        'action:abort': { href: `${self}/actions/abort`, description: 'Abort' },
      }),
    };
  },
};

const parameters = z
  .record(z.string().max(128), z.union([z.string().max(4096), z.number(), z.boolean()]))
  .nullish()
  .transform((given) =>
    Object.fromEntries(Object.entries(given ?? {}).map(([name, value]) => [name, String(value)])),
  );
const remote = z.string().min(1).max(8192).nullish();
const wish = z.object({
  ...storageInput,
  file: z.string('name the file in this storage').min(1, 'name the file in this storage').max(4096),
  source: remote,
  target: remote,
  protocol: z.string().max(64).nullish(),
  data: z.unknown().optional(),
  mode: z.string().max(32).nullish(),
  Credentials: z.unknown().optional(),
  terminationTime: dateText.nullish(),
  extraParameters: parameters,
  tags: tagList.nullish(),
  Tags: tagList.nullish(),
});
const oneSide = wish.refine(
  ({ source, target }) =>
    (source ?? undefined) === undefined || (target ?? undefined) === undefined,
  'name a source or a target, not both',
);

function startOf(text: string | undefined, nowMs: number): number | undefined {
  if (text === undefined || text === '') return undefined;
  const ms = parseDate(text, nowMs);
  if (ms !== undefined) return ms;
  throw new RequestError(
    'BAD_REQUEST',
    'extraParameters.scheduledStartTime: must be a date such as 2026-06-17T14:54:15+0200',
  );
}

const startTransfer = operation({
  method: 'POST',
  path: '/storages/:storageId/transfers',
  summary: 'Starts a transfer between this storage and another server, a storage or a URL',
  input: oneSide.refine(
    ({ source, target }) => Boolean(source ?? target),
    'name a source, to be fetched, or a target, to be sent to',
  ),
  body: 'json',
  answers: answersCreated,
  errors: recordErrors,
  id: 'startTransfer',
  tag: 'transfers',
  policy: {
    ...onStorage.write,
    description: `${onStorage.write.description}; of what is sent, to read`,
    decide: (caller, deps, { storageId, target }) =>
      onStorage[target ? 'read' : 'write'].decide(caller, deps, { storageId }),
  },
  run: async (deps, input, { caller, baseUrl }) => {
    const { storageId, file, source, target, protocol, mode, terminationTime } = input;
    const { scheduledStartTime, ...others } = input.extraParameters;
    const { id } = await deps.data.transfers.create({
      ...{ principal: principalOf(caller), storageId, file },
      tags: input.tags ?? input.Tags ?? [],
      ...{ direction: source ? 'in' : 'out', remote: source ?? target ?? '' },
      ...{ protocol: protocol ?? undefined, mode: mode ?? undefined, data: input.data },
      ...{ credentials: input.Credentials, parameters: others },
      startMs: startOf(scheduledStartTime, deps.clock.now()),
      terminationMs: terminationTime ?? undefined,
    });
    return created(linksFrom(baseUrl).resource('transfers', id));
  },
});

export const transferOperations = [
  startTransfer,
  ...ownedOperations(transfers),
  abortOperation(transfers),
];
