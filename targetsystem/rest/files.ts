import { z } from 'zod';
import { asGridError, GridError } from '#kernel/errors.js';
import { formatDate } from '#kernel/clock.js';
import { mediaTypeOf } from '#kernel/http/media-type.js';
import { operations, type Context, type RawContext } from '#kernel/http/operation.js';
import { pageParameters } from '#kernel/http/page.js';
import { parseContentRange } from '#kernel/http/range.js';
import { created, json, jsonType, noContent, type Reply } from '#kernel/http/reply.js';
import { readJson } from '#kernel/http/body.js';
import {
  readMetadata,
  removeWithMetadata,
  writeMetadata,
  type FileInfo,
  type FileSpace,
} from '#xnjs/index.js';
import { answersCreated, answersNothing } from '#kernel/http/answers.js';
import { Changes, File, type FileEntry, type Rendered } from './answers.js';
import { fileErrors } from './answers-errors.js';
import { answersBytes, downloadErrors } from './answers-data.js';
import type { RestDeps } from './deps.js';
import { renderAclEntry } from './files-acl.js';
import {
  bytesType as bytes,
  download,
  entityTag,
  mediaType,
  refuseIfMatching,
  refuseUnlessMatching,
} from './files-download.js';
import { changeFile } from './files-changes.js';
import { hrefs } from './links.js';
import { onStorage, storageInput } from './policy.js';

const operation = operations<RestDeps>();
const path = '/storages/:storageId/files{/*path}';
const fileInput = { ...storageInput, path: z.string().default('') };

/** Metadata by which UNICORE notes what a file was uploaded as. */
const typeKey = 'Content-Type';

/** What every entry of a listing shows (unicore-rest 3.11.1). `lastAccessed` is the time of change. */
export function renderEntry(entry: FileInfo): Rendered<typeof FileEntry> {
  return {
    isDirectory: entry.isDirectory,
    size: entry.sizeBytes,
    lastAccessed: formatDate(entry.modifiedMs),
    owner: entry.owner,
    group: entry.group,
    permissions: entry.permissions,
  };
}

async function open(
  { storages }: RestDeps,
  storageId: string,
  { caller }: Context,
): Promise<{ files: FileSpace; metadata: boolean }> {
  const { files, metadata } = await storages.get(storageId);
  return { files: files(caller.dn), metadata };
}

const getFile = operation({
  method: 'GET',
  path,
  summary: 'Properties of a file, the listing of a directory, or the bytes of a file',
  input: z.object({
    ...fileInput,
    ...pageParameters(10_000),
    acl: z.stringbool('must be true or false').default(false),
    download: z
      .stringbool('must be true or false')
      .default(false)
      .describe('Asks for the bytes, for those who cannot choose by Accept'),
  }),
  produces: [jsonType, bytes],
  answers: { ...answersBytes, 200: { ...answersBytes[200], body: File } },
  errors: downloadErrors,
  id: 'getFile',
  policy: onStorage.read,
  run: async (deps, { storageId, path: name, acl, download: wanted, ...page }, context) => {
    const { accepts, headers, url } = context;
    const { files, metadata } = await open(deps, storageId, context);
    const entry = await files.stat(name);
    const about = metadata ? await readMetadata(files, name) : {};
    const anything = headers.accept === undefined || headers.accept === '*/*';
    const asBytes = anything ? !entry.isDirectory : accepts([jsonType, bytes]) === bytes;
    if (asBytes || wanted)
      return download(files, entry, {
        ...{ headers, signal: context.signal, nowMs: deps.clock.now() },
        type: about[typeKey],
      });
    const entries = acl ? await files.acl(name) : undefined;
    const properties = {
      ...renderEntry(entry),
      metadata: about,
      ...(entries && { acl: entries.map(renderAclEntry) }),
    };
    if (entry.isDirectory)
      return await renderDirectory(files, name, page, properties, { url, metadata });
    const links = hrefs({
      self: url,
      ...linksOf(url, metadata),
      download: { href: `${url}?download=true`, description: 'Download' },
    });
    const shown = { ...properties, _links: links } satisfies Rendered<typeof File>;
    return json(shown, { headers: { 'accept-ranges': 'bytes' } });
  },
});

function linksOf(url: string, metadata: boolean): Parameters<typeof hrefs>[0] {
  const at = url.indexOf('/files');
  const [storage, inside] = [url.slice(0, at), url.slice(at + '/files'.length)];
  const extract =
    inside === '' ? `${storage}/actions/extract` : `${storage}/files/actions/extract${inside}`;
  return {
    parentStorage: { href: storage, description: 'Parent Storage' },
    ...(metadata && { 'action:extract': { href: extract, description: 'Extract metadata' } }),
  };
}

async function renderDirectory(
  files: FileSpace,
  name: string,
  page: { offset: number; num: number },
  properties: Omit<Rendered<typeof File>, 'content' | '_links'>,
  { url, metadata }: { url: string; metadata: boolean },
): Promise<Reply> {
  const { entries, total } = await files.list(name, page);
  const { offset, num } = page;
  const pageAt = (at: number): string => `${url}?offset=${at}&num=${num}`;
  const shown: Rendered<typeof File> = {
    ...properties,
    content: Object.fromEntries(
      entries.map((each) => [each.isDirectory ? `${each.path}/` : each.path, renderEntry(each)]),
    ),
    _links: hrefs({
      self: pageAt(offset),
      ...linksOf(url, metadata),
      ...(offset + num < total && { next: pageAt(offset + num) }),
      ...(offset > 0 && { previous: pageAt(Math.max(0, offset - num)) }),
    }),
  };
  return json(shown);
}

const wholeNumber = z.coerce.number().int().nonnegative();

/**
 * Whether what comes is to go behind what is there.
 * @throws `PRECONDITION_FAILED` of the request's own conditions; `CONFLICT` the file does not end at `offset`
 */
async function appends(
  files: FileSpace,
  path: string,
  how: { append: boolean; offset?: number | undefined },
  { headers }: RawContext,
  nowMs: number,
): Promise<boolean> {
  // without a look at Content-Range, what is sent of a file (RFC 9110 14.5) would replace all of it
  const { append, offset = parseContentRange(headers['content-range']) } = how;
  const { 'if-match': ifMatch, 'if-none-match': ifNoneMatch } = headers;
  if (offset === undefined && ifMatch === undefined && ifNoneMatch === undefined) return append;
  const found = await files.stat(path).catch((error: unknown) => {
    if (asGridError(error)?.code === 'NOT_FOUND') return undefined;
    throw error;
  });
  const etag = found && entityTag(found, nowMs);
  refuseUnlessMatching(ifMatch, etag);
  refuseIfMatching(ifNoneMatch, etag);
  const size = found?.sizeBytes ?? 0;
  if (offset === undefined) return append;
  if (offset !== size && offset !== 0)
    throw new GridError('CONFLICT', `the file has ${size} bytes, go on from there`, { size });
  return offset > 0;
}

const putFile = operation({
  method: 'PUT',
  path,
  summary:
    'Uploads a file, or goes on with that; with a JSON body changes its permissions, group, ACL or metadata',
  input: z.object({
    ...fileInput,
    size: wholeNumber.optional(),
    append: z.stringbool('must be true or false').default(false),
    offset: wholeNumber.optional(),
  }),
  body: 'raw',
  consumes: [bytes, jsonType],
  answers: { 200: { body: Changes }, ...answersNothing },
  errors: [...fileErrors, 'PRECONDITION_FAILED'],
  id: 'putFile',
  policy: onStorage.write,
  run: async (deps, { storageId, path: name, ...how }, context) => {
    const { headers, signal } = context;
    const { files, metadata } = await open(deps, storageId, context);
    const type = headers['content-type'] ?? bytes;
    if (mediaTypeOf(headers) === jsonType)
      return json(await changeFile(files, name, await readJson(context.body), metadata));
    const append = await appends(files, name, how, context, deps.clock.now());
    await files.write(name, context.body, { append, signal });
    if (metadata && type !== bytes && mediaType.test(type)) {
      const about = await readMetadata(files, name);
      await writeMetadata(files, name, { ...about, [typeKey]: type });
    }
    return noContent();
  },
});

const makeDirectory = operation({
  method: 'POST',
  path,
  summary: 'Makes a directory, and those above it',
  input: z.object(fileInput),
  answers: answersCreated,
  errors: fileErrors,
  id: 'makeDirectory',
  policy: onStorage.write,
  run: async (deps, { storageId, path: name }, context) => {
    const { files } = await open(deps, storageId, context);
    await files.mkdir(name);
    return created(context.url);
  },
});

const removeFile = operation({
  method: 'DELETE',
  path,
  summary: 'Removes a file, or a directory with all that is in it',
  input: z.object(fileInput),
  answers: answersNothing,
  errors: fileErrors,
  id: 'removeFile',
  policy: onStorage.write,
  run: async (deps, { storageId, path: name }, context) => {
    const { files, metadata } = await open(deps, storageId, context);
    if (metadata) await removeWithMetadata(files, name);
    else await files.remove(name);
    return noContent();
  },
});

export const fileOperations = [getFile, putFile, makeDirectory, removeFile];
