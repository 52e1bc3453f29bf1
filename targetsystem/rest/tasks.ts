import { z } from 'zod';
import { formatDate } from '#kernel/clock.js';
import { answersCreated, answersJson } from '#kernel/http/answers.js';
import { operations, RequestError, type Context } from '#kernel/http/operation.js';
import { created, json, type Reply } from '#kernel/http/reply.js';
import { isAllowed } from '#kernel/security/acl.js';
import { principalOf, refuseDepth, type Task, type TaskWork } from '#xnjs/index.js';
import { recordErrors, Task as TaskAnswer, TaskBegun, TaskList } from './answers-data.js';
import type { RenderedBeside } from './answers.js';
import type { RestDeps } from './deps.js';
import { hrefs, linksFrom } from './links.js';
import { abortOperation, ownedOperations, type OwnedKind } from './owned-resource.js';
import { onStorage, storageInput, users } from './policy.js';

const operation = operations<RestDeps>();

const tasks: OwnedKind<Task> = {
  collection: 'tasks',
  noun: 'task',
  name: 'Task',
  answers: { one: TaskAnswer, list: TaskList },
  service: ({ data }) => data.tasks,
  render: (
    { id, state, message, serviceUrl, exitCode, result, createdMs },
    { baseUrl },
  ): RenderedBeside<typeof TaskAnswer> => {
    const self = linksFrom(baseUrl).resource('tasks', id);
    return {
      submissionTime: formatDate(createdMs),
      status: state,
      statusMessage: message,
      submissionService: serviceUrl,
      exitCode,
      result,
      _links: hrefs({
        self,
        'action:abort': { href: `${self}/actions/abort`, description: 'Abort' },
      }),
    };
  },
};

/** Begins what takes long. @returns its address */
async function begin(
  { data }: RestDeps,
  work: TaskWork,
  serviceUrl: string,
  { caller, baseUrl }: Context,
): Promise<string> {
  const { id } = await data.tasks.create({ principal: principalOf(caller), serviceUrl, work });
  return linksFrom(baseUrl).resource('tasks', id);
}

const pathText = z.string().max(4096);
const depth = z.coerce.number().nullish();

async function extract(
  deps: RestDeps,
  storageId: string,
  { path, depth: levels }: { path: string; depth: number | null | undefined },
  context: Context,
): Promise<Reply> {
  const { metadata, files } = await deps.storages.get(storageId);
  if (!metadata) throw new RequestError('NOT_FOUND', 'metadata is not supported for this storage');
  const work = { do: 'extract', storageId, path, depth: levels ?? 10 } as const;
  refuseDepth(work.depth);
  await files(context.caller.dn).stat(path);
  const taskHref = await begin(deps, work, linksFrom(context.baseUrl).storage(storageId), context);
  return json({ status: 'OK', asyncExtraction: true, taskHref });
}

const extractAll = operation({
  method: 'POST',
  path: '/storages/:storageId/actions/extract',
  summary: 'Starts a task that finds out what files are, for their metadata',
  input: z.looseObject({ ...storageInput, path: pathText.nullish(), depth }),
  body: 'json',
  answers: answersJson(TaskBegun),
  errors: recordErrors,
  id: 'extractMetadata',
  tag: 'tasks',
  policy: onStorage.write,
  run: (deps, { storageId, path, depth: levels }, context) =>
    extract(deps, storageId, { path: path ?? '/', depth: levels }, context),
});

/** `actions` is a directory of nobody's here: the original has this address (unicore-rest 3.11.5). */
const extractOne = operation({
  method: 'POST',
  path: '/storages/:storageId/files/actions/extract{/*path}',
  summary: 'Starts a task that finds out what a file is, or those of a directory',
  input: z.looseObject({ ...storageInput, path: pathText.default('/'), depth }),
  body: 'json',
  answers: answersJson(TaskBegun),
  errors: recordErrors,
  id: 'extractFileMetadata',
  tag: 'tasks',
  policy: onStorage.write,
  run: (deps, { storageId, path, depth: levels }, context) =>
    extract(deps, storageId, { path, depth: levels }, context),
});

/** An extension: a copy that is not waited for. */
const copyLater = operation({
  method: 'POST',
  path: '/storages/:storageId/actions/copy-async',
  summary: 'Starts a task that copies a file or a directory',
  input: z.looseObject({
    ...storageInput,
    from: pathText.min(1, 'name a path'),
    to: pathText.min(1, 'name a path'),
  }),
  body: 'json',
  answers: answersJson(TaskBegun),
  errors: recordErrors,
  id: 'copyLater',
  tag: 'tasks',
  policy: onStorage.write,
  run: async (deps, { storageId, from, to }, context) => {
    const { files } = await deps.storages.get(storageId);
    await files(context.caller.dn).stat(from);
    const work = { do: 'copy', storageId, from, to } as const;
    const taskHref = await begin(
      deps,
      work,
      linksFrom(context.baseUrl).storage(storageId),
      context,
    );
    return json({ status: 'OK', taskHref });
  },
});

const storageUrl = /\/rest\/core\/storages\/([^/?#]+)\/?$/;

const searchAll = operation({
  method: 'POST',
  path: '/storages/search',
  summary: 'Starts a task that searches several storages of this site',
  input: z.looseObject({
    query: z.string('say what to look for').min(1).max(256),
    advanced: z.unknown().optional(),
    resources: z.array(z.string().max(2048)).max(100),
  }),
  body: 'json',
  answers: answersCreated,
  errors: [...recordErrors, 'NOT_FOUND'],
  id: 'searchStorages',
  tag: 'tasks',
  policy: users,
  run: async (deps, { query, resources }, context) => {
    const storages: Record<string, string> = {};
    const links = linksFrom(context.baseUrl);
    for (const url of resources) {
      const [, id = ''] = storageUrl.exec(url) ?? [];
      const address = links.storage(id);
      if (id === '' || url.replace(/\/$/, '') !== address)
        throw new RequestError('BAD_REQUEST', `resources: ${url} is no storage of this site`);
      if (!isAllowed(await deps.storages.get(id), context.caller, 'read'))
        throw new RequestError('FORBIDDEN', `resources: ${url} is not for you to read`);
      storages[address] = id;
    }
    const work = { do: 'search', query, storages } as const;
    return created(await begin(deps, work, context.url, context));
  },
});

/** Before those of storages and files, whose addresses are wider. */
export const taskOperations = [
  searchAll,
  extractAll,
  extractOne,
  copyLater,
  ...ownedOperations(tasks),
  abortOperation(tasks),
];
