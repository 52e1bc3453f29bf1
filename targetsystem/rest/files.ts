import { z } from 'zod';
import { formatDate } from '#kernel/clock.js';
import { operations, RequestError } from '#kernel/http/operation.js';
import { pageParameters } from '#kernel/http/page.js';
import { contentRange, parseRange } from '#kernel/http/range.js';
import { created, json, jsonType, noContent, stream } from '#kernel/http/reply.js';
import { readJson } from '#kernel/http/body.js';
import type { FileInfo } from '#xnjs/index.js';
import type { RestDeps } from './deps.js';
import { hrefs } from './links.js';
import { getStorage, storageInput, storageOwner } from './storages.js';

const operation = operations<RestDeps>();
const path = '/storages/:storageId/files{/*path}';
const bytes = 'application/octet-stream';
const fileInput = { ...storageInput, path: z.string().default('') };

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

const getFile = operation({
  method: 'GET',
  path,
  summary: 'Properties of a file, the listing of a directory, or the bytes of a file',
  input: z.object({ ...fileInput, ...pageParameters(10_000) }),
  produces: [jsonType, bytes],
  policy: storageOwner,
  run: async (deps, { storageId, path: name, ...page }, { accepts, headers, url, signal }) => {
    const { files } = await getStorage(deps, storageId);
    const entry = await files.stat(name);
    const wanted = headers.accept === undefined || headers.accept === '*/*';
    const asBytes = wanted ? !entry.isDirectory : accepts([jsonType, bytes]) === bytes;
    if (asBytes) {
      if (entry.isDirectory) throw new RequestError('NOT_ACCEPTABLE', 'a directory has no bytes');
      const range = parseRange(headers.range, entry.sizeBytes);
      const length = range?.length ?? entry.sizeBytes;
      return stream(files.read(name, range, { signal }), {
        status: range ? 206 : 200,
        headers: {
          'accept-ranges': 'bytes',
          'content-length': length,
          'content-range': range && contentRange(range, entry.sizeBytes),
        },
      });
    }
    const content = entry.isDirectory ? await files.list(name, page) : undefined;
    const parentStorage = url.slice(0, url.indexOf('/files'));
    return json(
      {
        ...renderEntry(entry),
        metadata: {},
        content:
          content &&
          Object.fromEntries(
            content.entries.map((each) => [
              each.isDirectory ? `${each.path}/` : each.path,
              renderEntry(each),
            ]),
          ),
        _links: hrefs({ self: url, parentStorage }),
      },
      { headers: entry.isDirectory ? {} : { 'accept-ranges': 'bytes' } },
    );
  },
});

const permissionChange = z.looseObject({
  permissions: z.string().optional(),
  unixPermissions: z.string().optional(),
});

const putFile = operation({
  method: 'PUT',
  path,
  summary: 'Uploads a file; with a JSON body changes its permissions',
  input: z.object({ ...fileInput, size: z.coerce.number().int().nonnegative().optional() }),
  body: 'raw',
  policy: storageOwner,
  run: async (deps, { storageId, path: name }, { body, headers, signal }) => {
    const { files } = await getStorage(deps, storageId);
    if (headers['content-type']?.startsWith(jsonType) !== true) {
      await files.write(name, body, { signal });
      return noContent();
    }
    const { permissions, unixPermissions, ...others } = permissionChange.parse(
      await readJson(body),
    );
    const answers = Object.fromEntries(
      Object.keys(others).map((key) => [key, `FAILED: ${key} cannot be changed on this storage.`]),
    );
    const mode = permissions ?? unixPermissions;
    if (mode === undefined) return json(answers);
    await files.chmod(name, mode);
    return json({
      ...answers,
      [permissions === undefined ? 'unixPermissions' : 'permissions']: 'OK',
    });
  },
});

const makeDirectory = operation({
  method: 'POST',
  path,
  summary: 'Makes a directory, and those above it',
  input: z.object(fileInput),
  policy: storageOwner,
  run: async (deps, { storageId, path: name }, { url }) => {
    const { files } = await getStorage(deps, storageId);
    await files.mkdir(name);
    return created(url);
  },
});

const removeFile = operation({
  method: 'DELETE',
  path,
  summary: 'Removes a file, or a directory with all that is in it',
  input: z.object(fileInput),
  policy: storageOwner,
  run: async (deps, { storageId, path: name }) => {
    const { files } = await getStorage(deps, storageId);
    await files.remove(name);
    return noContent();
  },
});

export const fileOperations = [getFile, putFile, makeDirectory, removeFile];
