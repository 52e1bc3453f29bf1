import { z } from 'zod';
import { fieldsParameter, listParameter, selectFields } from '#kernel/http/fields.js';
import { everybody, operations, RequestError, type Context } from '#kernel/http/operation.js';
import { pageParameters, renderPage, slicePage } from '#kernel/http/page.js';
import { json, noContent } from '#kernel/http/reply.js';
import { ownerOrAdmin } from '#kernel/security/policy.js';
import { FileSpace, type TargetSystem } from '#xnjs/index.js';
import type { RestDeps } from './deps.js';
import { workspaceSuffix } from './jobs-rendering.js';
import { hrefs, linksFrom } from './links.js';
import { ownedProperties } from './properties.js';
import { homeStorageId } from './sites-rendering.js';

const operation = operations<RestDeps>();

/** A storage: a directory in a guest, seen by the REST face. */
export type Storage = {
  readonly id: string;
  readonly ownerDn: string;
  readonly description: string;
  readonly target: string;
  readonly files: FileSpace;
  readonly terminationMs?: number | undefined;
  readonly jobId?: string;
  /** A job's directory exists once the job has made it. */
  readonly ready: boolean;
};

const homeSuffix = homeStorageId('');

/** @throws `NOT_FOUND`: no such storage, or its machine is gone and with it the files */
export async function getStorage({ systems, jobs }: RestDeps, id: string): Promise<Storage> {
  if (id.endsWith(homeSuffix)) {
    const system = systems.get(id.slice(0, -homeSuffix.length));
    const target = systems.find(system.id);
    if (!target) throw gone(id);
    const files = new FileSpace({
      root: '$HOME',
      identity: target.identity,
      tsi: () => target.tsi(),
    });
    return {
      id,
      ownerDn: system.ownerDn,
      description: 'Home directory',
      target: system.id,
      files,
      terminationMs: system.terminationMs,
      ready: system.state === 'READY',
    };
  }
  if (!id.endsWith(workspaceSuffix)) throw gone(id);
  const job = await jobs.get(id.slice(0, -workspaceSuffix.length));
  const target = systems.find(job.targetId);
  if (!target) throw gone(id);
  return {
    id,
    ownerDn: job.ownerDn,
    description: 'Job directory',
    target: job.targetId,
    files: jobs.files(job),
    terminationMs: job.terminationMs,
    jobId: job.id,
    ready: job.state !== 'CREATED',
  };
}

function gone(id: string): RequestError {
  return new RequestError('NOT_FOUND', `there is no storage ${id}`);
}

export const storageInput = { storageId: z.string().max(80) };
export const storageOwner = ownerOrAdmin<RestDeps, { storageId: string }>(
  async (deps, { storageId }) => (await getStorage(deps, storageId)).ownerDn,
);

function homesOf({ systems }: RestDeps, { caller }: Context): string[] {
  const hasHome = ({ state }: TargetSystem): boolean => state === 'READY';
  return systems
    .list({ ownerDn: caller.dn })
    .filter(hasHome)
    .map(({ id }) => homeStorageId(id));
}

const listStorages = operation({
  method: 'GET',
  path: '/storages',
  summary: 'The home directories of the caller; with filter=all also the directories of jobs',
  input: z.object({
    ...pageParameters(),
    tags: listParameter.optional(),
    filter: z.string().toLowerCase().optional(),
  }),
  policy: everybody,
  run: async (deps, { filter, tags = [], ...page }, context) => {
    const links = linksFrom(context.baseUrl);
    const homes = tags.length > 0 ? [] : homesOf(deps, context);
    const here = slicePage(homes, page);
    const rest = { offset: Math.max(0, page.offset - homes.length), num: page.num - here.length };
    const workspaces =
      filter === 'all'
        ? await deps.jobs.list({ ownerDn: context.caller.dn, tags, ...rest })
        : { ids: [], total: 0 };
    const ids = [...here, ...workspaces.ids.map((id) => `${id}${workspaceSuffix}`)];
    const total = homes.length + workspaces.total;
    const query = { filter, tags: tags.length > 0 ? tags.join(',') : undefined };
    return json(renderPage(context.url, page, ids.map(links.storage), total, query));
  },
});

const getOne = operation({
  method: 'GET',
  path: '/storages/:storageId',
  summary: 'One storage',
  input: z.object({ ...storageInput, fields: fieldsParameter }),
  policy: storageOwner,
  run: async (deps, { storageId, fields }, { baseUrl }) => {
    const storage = await getStorage(deps, storageId);
    const links = linksFrom(baseUrl);
    const self = links.storage(storageId);
    const needsSpace = fields === undefined || fields.some((name) => name.endsWith('Space'));
    const properties = {
      ...ownedProperties({
        ownerDn: storage.ownerDn,
        tags: [],
        terminationMs: storage.terminationMs,
      }),
      description: storage.description,
      protocols: ['BFT'],
      umask: '77',
      metadataSupported: false,
      filesystemDescription: `target system ${storage.target}`,
      resourceStatus: storage.ready ? 'READY' : 'INITIALIZING',
      ...(storage.ready && { mountPoint: await storage.files.mountPoint() }),
      ...(storage.ready && needsSpace && (await renderSpace(storage.files))),
      _links: hrefs({
        self,
        files: `${self}/files`,
        'action:copy': `${self}/actions/copy`,
        'action:rename': `${self}/actions/rename`,
        ...(storage.jobId !== undefined && { job: links.job(storage.jobId) }),
      }),
    };
    return json(selectFields(properties, fields));
  },
});

async function renderSpace(files: FileSpace): Promise<Record<string, number>> {
  const { freeBytes, userBytes } = await files.space();
  return { freeSpace: freeBytes, usableSpace: userBytes < 0 ? freeBytes : userBytes };
}

/** UCC and pyunicore name both paths from the root of the storage. */
const act = operation({
  method: 'POST',
  path: '/storages/:storageId/actions/:action',
  summary: 'Renames or copies a file',
  input: z.looseObject({
    ...storageInput,
    action: z.string(),
    from: z.string().max(4096),
    to: z.string().max(4096),
  }),
  body: 'json',
  policy: storageOwner,
  run: async (deps, { storageId, action, from, to }) => {
    if (action !== 'rename' && action !== 'copy')
      throw new RequestError('NOT_FOUND', `a storage has no action ${action}`);
    const { files } = await getStorage(deps, storageId);
    await files[action](from, to);
    return noContent();
  },
});

export const storageOperations = [listStorages, getOne, act];
