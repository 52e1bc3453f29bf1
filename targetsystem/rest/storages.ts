import { z } from 'zod';
import { fieldsParameter, selectFields } from '#kernel/http/fields.js';
import { everybody, operations, RequestError } from '#kernel/http/operation.js';
import { json, noContent } from '#kernel/http/reply.js';
import { isOwner } from '#kernel/security/acl.js';
import { moveWithMetadata, searchFiles } from '#xnjs/index.js';
import { answersJson, answersNothing } from '#kernel/http/answers.js';
import { Changes, type Rendered, SearchAnswer, Storage, StorageList } from './answers.js';
import { fileErrors, machineErrors } from './answers-errors.js';
import type { RestDeps } from './deps.js';
import { filePath, hrefs, linksFrom } from './links.js';
import { listParameters, renderList } from './lists.js';
import { onStorage, storageInput } from './policy.js';
import { changeStorage } from './storages-changes.js';
import { renderStorage } from './storages-rendering.js';

const operation = operations<RestDeps>();

const listStorages = operation({
  method: 'GET',
  path: '/storages',
  summary: 'The storages that the caller may read; with filter=all also the directories of jobs',
  input: z.object({
    ...listParameters(),
    filter: z.string().toLowerCase().optional(),
  }),
  answers: answersJson(StorageList),
  id: 'listStorages',
  policy: everybody,
  run: async ({ storages }, wish, { caller, baseUrl, url }) => {
    const { filter, tags = [], ...page } = wish;
    const workspaces = filter === 'all';
    const { ids, total } = await storages.list(caller, { ...page, tags, workspaces });
    return renderList(url, wish, ids.map(linksFrom(baseUrl).storage), total);
  },
});

const getOne = operation({
  method: 'GET',
  path: '/storages/:storageId',
  summary: 'One storage',
  input: z.object({ ...storageInput, fields: fieldsParameter }),
  answers: answersJson(Storage),
  errors: machineErrors,
  id: 'getStorage',
  policy: onStorage.read,
  run: async ({ storages, credential }, { storageId, fields }, { baseUrl, caller }) =>
    json(
      await renderStorage(await storages.get(storageId), {
        links: linksFrom(baseUrl),
        userDn: caller.dn,
        serverDn: credential.dn,
        fields,
      }),
    ),
});

const changeOne = operation({
  method: 'PUT',
  path: '/storages/:storageId',
  summary: 'Changes umask, description, tags, ACL or termination time',
  input: z.looseObject(storageInput),
  body: 'json',
  answers: answersJson(Changes),
  id: 'changeStorage',
  policy: onStorage.modify,
  run: async ({ storages }, { storageId, ...members }, { caller }) => {
    const storage = await storages.get(storageId);
    const latestMs = storages.latestTermination(storage);
    const context = { storage, latestMs, isOwner: isOwner(storage, caller) };
    return changeStorage(members, context, (change) => storages.update(storageId, change));
  },
});

const deleteOne = operation({
  method: 'DELETE',
  path: '/storages/:storageId',
  summary: 'Ends a storage that a user had made',
  input: z.object(storageInput),
  answers: answersNothing,
  errors: machineErrors,
  id: 'deleteStorage',
  policy: onStorage.own,
  run: async ({ storages }, { storageId }) => {
    await storages.destroy(storageId);
    return noContent();
  },
});

const search = operation({
  method: 'GET',
  path: '/storages/:storageId/search',
  summary: 'The files whose name or metadata match a query',
  input: z.object({
    ...storageInput,
    q: z.string('name what to look for'),
    fields: fieldsParameter,
  }),
  answers: answersJson(SearchAnswer),
  errors: fileErrors,
  id: 'searchStorage',
  policy: onStorage.read,
  run: async ({ storages }, { storageId, q, fields }, { baseUrl, caller, signal }) => {
    const storage = await storages.get(storageId);
    if (!storage.metadata)
      throw new RequestError('NOT_FOUND', 'metadata is not supported for this storage');
    const { paths, complete } = await searchFiles(storage.files(caller.dn), q, { signal });
    const self = linksFrom(baseUrl).storage(storageId);
    const results = paths.map((path, at) => [`search-result-${at + 1}`, self + filePath(path)]);
    const answer = {
      status: 'OK',
      query: q,
      numberOfResults: paths.length,
      complete,
      _links: hrefs(Object.fromEntries(results) as Record<string, string>),
    } satisfies Rendered<typeof SearchAnswer>;
    return json(selectFields(answer, fields));
  },
});

const pathText = z.string().min(1).max(4096);

/** UCC and pyunicore name both paths from the root of the storage. */
const act = operation({
  method: 'POST',
  path: '/storages/:storageId/actions/:action',
  summary: 'Renames or copies a file',
  input: z.looseObject({
    ...storageInput,
    action: z.string(),
    from: pathText.optional(),
    to: pathText.optional(),
  }),
  body: 'json',
  answers: answersNothing,
  errors: fileErrors,
  id: 'actOnStorage',
  policy: onStorage.write,
  run: async ({ storages }, { storageId, action, from, to }, { caller }) => {
    if (action !== 'rename' && action !== 'copy')
      throw new RequestError('NOT_FOUND', `a storage has no action ${action}`);
    if (from === undefined || to === undefined)
      throw new RequestError('BAD_REQUEST', `${action} needs the paths "from" and "to"`);
    const { files: filesOf, metadata } = await storages.get(storageId);
    const files = filesOf(caller.dn);
    if (metadata) await moveWithMetadata(files, action, from, to);
    else await files[action](from, to);
    return noContent();
  },
});

export const storageOperations = [listStorages, getOne, changeOne, deleteOne, search, act];
