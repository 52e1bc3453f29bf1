import { z } from 'zod';
import { formatDate } from '#kernel/clock.js';
import { operations, RequestError, type Context } from '#kernel/http/operation.js';
import { pageParameters } from '#kernel/http/page.js';
import { contentRange, parseRange } from '#kernel/http/range.js';
import { created, json, jsonType, noContent, stream, type Reply } from '#kernel/http/reply.js';
import { readJson } from '#kernel/http/body.js';
import {
  readMetadata,
  removeWithMetadata,
  writeMetadata,
  type FileInfo,
  type FileSpace,
} from '#xnjs/index.js';
import type { RestDeps } from './deps.js';
import { renderAclEntry } from './files-acl.js';
import { changeFile } from './files-changes.js';
import { hrefs } from './links.js';
import { onStorage, storageInput } from './policy.js';

const operation = operations<RestDeps>();
const path = '/storages/:storageId/files{/*path}';
const bytes = 'application/octet-stream';
const fileInput = { ...storageInput, path: z.string().default('') };

/** Metadata by which UNICORE notes what a file was uploaded as. */
const typeKey = 'Content-Type';
const mediaType = /^[\w.+-]{1,64}\/[\w.+-]{1,64}(?:\s*;[\x20-\x7e]{0,128})?$/;

/** What every entry of a listing shows (unicore-rest 3.11.1). `lastAccessed` is the time of change. */
function renderEntry(entry: FileInfo): Record<string, unknown> {
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
  }),
  produces: [jsonType, bytes],
  policy: onStorage.read,
  run: async (deps, { storageId, path: name, acl, ...page }, context) => {
    const { accepts, headers, url } = context;
    const { files, metadata } = await open(deps, storageId, context);
    const entry = await files.stat(name);
    const about = metadata ? await readMetadata(files, name) : {};
    const anything = headers.accept === undefined || headers.accept === '*/*';
    const asBytes = anything ? !entry.isDirectory : accepts([jsonType, bytes]) === bytes;
    if (asBytes) return download(files, entry, about[typeKey], context);
    const entries = acl ? await files.acl(name) : undefined;
    const properties = {
      ...renderEntry(entry),
      metadata: about,
      ...(entries && { acl: entries.map(renderAclEntry) }),
    };
    if (entry.isDirectory) return await renderDirectory(files, name, page, properties, url);
    const links = hrefs({ self: url, parentStorage: parentOf(url) });
    return json({ ...properties, _links: links }, { headers: { 'accept-ranges': 'bytes' } });
  },
});

function parentOf(url: string): { href: string; description: string } {
  return { href: url.slice(0, url.indexOf('/files')), description: 'Parent Storage' };
}

async function renderDirectory(
  files: FileSpace,
  name: string,
  page: { offset: number; num: number },
  properties: Record<string, unknown>,
  url: string,
): Promise<Reply> {
  const { entries, total } = await files.list(name, page);
  const { offset, num } = page;
  const pageAt = (at: number): string => `${url}?offset=${at}&num=${num}`;
  return json({
    ...properties,
    content: Object.fromEntries(
      entries.map((each) => [each.isDirectory ? `${each.path}/` : each.path, renderEntry(each)]),
    ),
    _links: hrefs({
      self: pageAt(offset),
      parentStorage: parentOf(url),
      ...(offset + num < total && { next: pageAt(offset + num) }),
      ...(offset > 0 && { previous: pageAt(Math.max(0, offset - num)) }),
    }),
  });
}

function download(
  files: FileSpace,
  entry: FileInfo,
  type: string | undefined,
  { headers, signal }: Context,
): Reply {
  if (entry.isDirectory) throw new RequestError('NOT_ACCEPTABLE', 'a directory has no bytes');
  const range = parseRange(headers.range, entry.sizeBytes);
  return stream(files.read(entry.path, range, { signal }), {
    status: range ? 206 : 200,
    headers: {
      'content-type': type !== undefined && mediaType.test(type) ? type : bytes,
      // what a user has stored is no page of ours, whatever its type says
      'content-security-policy': 'sandbox',
      'x-content-type-options': 'nosniff',
      'accept-ranges': 'bytes',
      'content-length': range?.length ?? entry.sizeBytes,
      'content-range': range && contentRange(range, entry.sizeBytes),
    },
  });
}

const putFile = operation({
  method: 'PUT',
  path,
  summary: 'Uploads a file; with a JSON body changes its permissions, group, ACL or metadata',
  input: z.object({ ...fileInput, size: z.coerce.number().int().nonnegative().optional() }),
  body: 'raw',
  policy: onStorage.write,
  run: async (deps, { storageId, path: name }, context) => {
    const { headers, signal } = context;
    const { files, metadata } = await open(deps, storageId, context);
    const type = headers['content-type'] ?? bytes;
    if (type.startsWith(jsonType))
      return json(await changeFile(files, name, await readJson(context.body), metadata));
    await files.write(name, context.body, { signal });
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
  policy: onStorage.write,
  run: async (deps, { storageId, path: name }, context) => {
    const { files, metadata } = await open(deps, storageId, context);
    if (metadata) await removeWithMetadata(files, name);
    else await files.remove(name);
    return noContent();
  },
});

export const fileOperations = [getFile, putFile, makeDirectory, removeFile];
