import { z } from 'zod';
import { fieldsParameter, selectFields } from '#kernel/http/fields.js';
import { everybody, operations, RequestError, type Context } from '#kernel/http/operation.js';
import { pageParameters, renderPage, slicePage } from '#kernel/http/page.js';
import { created, json, type Reply } from '#kernel/http/reply.js';
import { parametersOf, type StorageType } from '#xnjs/index.js';
import { answersCreated, answersJson } from '#kernel/http/answers.js';
import { type Rendered, StorageFactory, StorageFactoryList } from './answers.js';
import { machineErrors } from './answers-errors.js';
import type { RestDeps } from './deps.js';
import { hrefs, linksFrom, storageFactoryId } from './links.js';
import { users } from './policy.js';
import { dateText, ownedProperties, tagList } from './properties.js';

const operation = operations<RestDeps>();

const factoryInput = { factoryId: z.string().max(64) };

function describe(type: StorageType) {
  return { description: type.description, parameters: parametersOf(type) };
}

function getType({ storages }: RestDeps, id: string): StorageType {
  const type = Object.hasOwn(storages.types, id) ? storages.types[id] : undefined;
  if (type) return type;
  throw new RequestError('NOT_FOUND', `there is no storage factory ${id}`);
}

const listFactories = operation({
  method: 'GET',
  path: '/storagefactories',
  summary: 'The storage factories: one for each type of storage, and one for all',
  input: z.object(pageParameters()),
  answers: answersJson(StorageFactoryList),
  id: 'listStorageFactories',
  policy: everybody,
  run: ({ storages }, page, { baseUrl, url }) => {
    const urls = [...Object.keys(storages.types), storageFactoryId].map(
      linksFrom(baseUrl).storageFactory,
    );
    return json(renderPage(url, page, slicePage(urls, page), urls.length));
  },
});

const getFactory = operation({
  method: 'GET',
  path: '/storagefactories/:factoryId',
  summary: 'What storages can be had, and by which parameters',
  input: z.object({ ...factoryInput, fields: fieldsParameter }),
  answers: answersJson(StorageFactory),
  id: 'getStorageFactory',
  policy: everybody,
  run: (deps, { factoryId, fields }, { url }) => {
    const types = Object.entries(deps.storages.types);
    const described =
      factoryId === storageFactoryId
        ? {
            storageDescriptions: Object.fromEntries(
              types.map(([name, type]) => [name, describe(type)]),
            ),
          }
        : describe(getType(deps, factoryId));
    const properties = {
      ...ownedProperties({ ownerDn: deps.credential.dn, tags: [] }),
      ...described,
      _links: hrefs({ self: url }),
    } satisfies Rendered<typeof StorageFactory>;
    return json(selectFields(properties, fields));
  },
});

const wish = {
  type: z.string().max(64).nullish(),
  name: z.string().max(256).nullish(),
  terminationTime: dateText.nullish(),
  tags: tagList.default([]),
  parameters: z.record(z.string(), z.unknown()).nullish(),
};
type Wish = z.output<z.ZodObject<typeof wish>>;

async function create(
  { storages }: RestDeps,
  typeName: string | null | undefined,
  { name, terminationTime, tags, parameters }: Wish,
  { caller, baseUrl }: Context,
): Promise<Reply> {
  const type = typeName ?? defaultType(storages.types);
  const { id } = await storages.create({
    ownerDn: caller.dn,
    type,
    name: name ?? undefined,
    tags,
    terminationMs: terminationTime ?? undefined,
    parameters: parameters ?? {},
  });
  return created(linksFrom(baseUrl).storage(id));
}

function defaultType(types: RestDeps['storages']['types']): string {
  const name = Object.hasOwn(types, 'DEFAULT') ? 'DEFAULT' : Object.keys(types)[0];
  if (name !== undefined) return name;
  throw new RequestError('BAD_REQUEST', 'no storages can be made here');
}

const createByFactory = operation({
  method: 'POST',
  path: '/storagefactories/:factoryId',
  summary: 'Makes a storage',
  input: z.object({ ...factoryInput, ...wish }),
  body: 'json',
  answers: answersCreated,
  errors: machineErrors,
  id: 'createStorageByFactory',
  policy: users,
  run: async (deps, { factoryId, type, ...others }, context) => {
    if (factoryId === storageFactoryId) return await create(deps, type, others, context);
    getType(deps, factoryId);
    return await create(deps, factoryId, others, context);
  },
});

const createInList = operation({
  method: 'POST',
  path: '/storages',
  summary: 'Makes a storage, as the factory for all types does',
  input: z.object(wish),
  body: 'json',
  answers: answersCreated,
  errors: machineErrors,
  id: 'createStorage',
  policy: users,
  run: (deps, input, context) => create(deps, input.type, input, context),
});

export const storageFactoryOperations = [listFactories, getFactory, createByFactory, createInList];
