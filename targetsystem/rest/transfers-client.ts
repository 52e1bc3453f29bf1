import { finished, Transform } from 'node:stream';
import { z } from 'zod';
import { answersNothing, type Answers } from '#kernel/http/answers.js';
import { operations, RequestError, type Context } from '#kernel/http/operation.js';
import { json, noContent, type Reply } from '#kernel/http/reply.js';
import { GridError } from '#kernel/errors.js';
import { capability } from '#kernel/security/policy.js';
import { principalOf, type ClientTransfer } from '#xnjs/index.js';
import { type Rendered, type RenderedBeside } from './answers.js';
import { fileErrors } from './answers-errors.js';
import {
  answersBytes,
  ClientTransfer as ClientTransferAnswer,
  ClientTransferBegun,
  ClientTransferList,
  downloadErrors,
  recordErrors,
} from './answers-data.js';
import type { RestDeps } from './deps.js';
import { attachment, bytesType, download } from './files-download.js';
import { hrefs, linksFrom } from './links.js';
import { ownedOperations, type OwnedKind } from './owned-resource.js';
import { tagList } from './properties.js';
import { onStorage, storageInput } from './policy.js';

const operation = operations<RestDeps>();

/** What clients can move files by; the storage shows the same. */
export const protocols = ['BFT'] as const;

const clientTransfers: OwnedKind<ClientTransfer> = {
  collection: 'client-server-transfers',
  noun: 'transfer between client and server',
  name: 'ClientTransfer',
  answers: { one: ClientTransferAnswer, list: ClientTransferList },
  service: ({ data }) => data.clientTransfers,
  render: (
    { id, isExport, path, storageId, parameters, transferredBytes },
    { baseUrl },
  ): RenderedBeside<typeof ClientTransferAnswer> => {
    const links = linksFrom(baseUrl);
    return {
      protocol: protocols[0],
      isExport,
      ...(isExport ? { source: path } : { target: path }),
      extraParameters: parameters,
      transferredBytes,
      _links: hrefs({
        self: links.resource('client-server-transfers', id),
        storage: links.storage(storageId),
      }),
    };
  },
};

const wish = z.object({
  ...storageInput,
  file: z.string('name the file in this storage').min(1, 'name the file in this storage').max(4096),
  protocol: z.string().max(64).nullish(),
  overwrite: z.union([z.boolean(), z.stringbool()], 'must be true or false').nullish(),
  numBytes: z.coerce.number().int().nullish(),
  extraParameters: z
    .record(z.string().max(128), z.union([z.string().max(4096), z.number(), z.boolean()]))
    .nullish(),
  tags: tagList.nullish(),
});

async function create(
  { data }: RestDeps,
  input: z.output<typeof wish>,
  isExport: boolean,
  { caller, baseUrl }: Context,
): Promise<Reply> {
  const { storageId, file, protocol, overwrite, numBytes, extraParameters, tags } = input;
  refuseOthers(protocol ?? protocols[0]);
  const { transfer, key } = await data.clientTransfers.create({
    ...{ principal: principalOf(caller), storageId, file, isExport },
    append: !isExport && overwrite === false,
    maxBytes: numBytes !== null && numBytes !== undefined && numBytes >= 0 ? numBytes : undefined,
    parameters: Object.fromEntries(
      Object.entries(extraParameters ?? {}).map(([name, value]) => [name, String(value)]),
    ),
    tags: tags ?? [],
  });
  const links = linksFrom(baseUrl);
  const answer = {
    protocol: protocols[0],
    parent: links.storage(storageId),
    isExport: `${isExport}` as const,
    fileName: transfer.path,
    accessURL: links.clientFile(key),
  } satisfies Rendered<typeof ClientTransferBegun>;
  const location = links.resource('client-server-transfers', transfer.id);
  return json(answer, { headers: { location } });
}

function refuseOthers(protocol: string): void {
  if (protocols.some((each) => each === protocol.toUpperCase())) return;
  throw new RequestError(
    'BAD_REQUEST',
    `Protocol '${protocol}' is not available; offered: ${protocols.join(', ')}`,
  );
}

const begun = {
  200: { body: ClientTransferBegun, headers: { location: 'Address of the transfer' } },
} as const satisfies Answers;

const startImport = operation({
  method: 'POST',
  path: '/storages/:storageId/imports',
  summary: 'An address that a client may send one file to, without login',
  input: wish,
  body: 'json',
  answers: begun,
  errors: recordErrors,
  id: 'startImport',
  tag: 'client-server-transfers',
  policy: onStorage.write,
  run: (deps, input, context) => create(deps, input, false, context),
});

const startExport = operation({
  method: 'POST',
  path: '/storages/:storageId/exports',
  summary: 'An address that a client may fetch one file from, without login',
  input: wish,
  body: 'json',
  answers: begun,
  errors: recordErrors,
  id: 'startExport',
  tag: 'client-server-transfers',
  policy: onStorage.read,
  run: (deps, input, context) => create(deps, input, true, context),
});

export const clientTransferOperations = [
  startImport,
  startExport,
  ...ownedOperations(clientTransfers),
];

const key = z.object({ key: z.string().max(128) });

const fetchFile = operation({
  method: 'GET',
  path: '/:key',
  summary: 'The bytes of the file that an export is for',
  input: key,
  produces: [bytesType],
  answers: answersBytes,
  errors: downloadErrors,
  id: 'fetchFile',
  tag: 'files',
  policy: capability,
  run: async ({ data, clock }, { key: secret }, { headers, signal, log }) => {
    const { transfer, files } = await data.clientTransfers.open(secret, 'read');
    const entry = await files.stat(transfer.path);
    const note = (bytes: number): void => {
      void data.clientTransfers
        .note(transfer.id, bytes)
        .catch((err: unknown) => log.warn({ err }, 'progress of a transfer not noted'));
    };
    const disposition = attachment(transfer.path);
    const { maxBytes } = transfer;
    return download(files, entry, {
      ...{ headers, signal, maxBytes, disposition, note },
      nowMs: clock.now(),
    });
  },
});

const sendFile = operation({
  method: 'PUT',
  path: '/:key',
  summary: 'Sends the file that an import is for',
  input: key,
  body: 'raw',
  answers: answersNothing,
  errors: fileErrors,
  id: 'sendFile',
  tag: 'files',
  policy: capability,
  run: async ({ data }, { key: secret }, context) => {
    const { transfer, files } = await data.clientTransfers.open(secret, 'write');
    const { append, path, maxBytes = Infinity } = transfer;
    if (Number(context.headers['content-length'] ?? 0) > maxBytes) throw tooLarge(maxBytes);
    const source = context.body.pipe(atMost(maxBytes));
    // not by `pipeline`: whoever sends too much can still be told
    finished(context.body, (error) => error && source.destroy(error));
    const bytes = await files.write(path, source, { append, signal: context.signal });
    await data.clientTransfers.note(transfer.id, bytes);
    return noContent();
  },
});

function atMost(bytes: number): Transform {
  let left = bytes;
  return new Transform({
    transform(chunk: Buffer, _encoding, done) {
      left -= chunk.length;
      if (left >= 0) done(null, chunk);
      else done(tooLarge(bytes));
    },
  });
}

function tooLarge(bytes: number): GridError {
  return new GridError('TOO_LARGE', `the import was for ${bytes} bytes at most`);
}

/** Below `/rest/files`. */
export const capabilityOperations = [fetchFile, sendFile];
