import { z } from 'zod';
import { fieldsParameter, selectFields } from '#kernel/http/fields.js';
import { everybody, operations } from '#kernel/http/operation.js';
import { json, noContent } from '#kernel/http/reply.js';
import type { EntryContent } from '../registry/entries.js';
import { renderClient, renderServer } from './base.js';
import { answersJson, answersNothing } from '#kernel/http/answers.js';
import {
  Changes,
  Registry,
  RegistryEntry,
  RegistryList,
  type Rendered,
  type Service,
} from './answers.js';
import { changeMembers, type Changeable } from './changes.js';
import type { RestDeps } from './deps.js';
import { hrefs, linksFrom, registryId, storageFactoryId } from './links.js';
import { mayAddEntries, mayChangeEntry, registryEntryInput as entryInput } from './policy.js';
import {
  ownedProperties,
  tagsMember,
  terminationMember,
  type PropertyChange,
} from './properties.js';

const operation = operations<RestDeps>();
const namespace = 'https://www.unicore.eu/rest';

/** What this server offers, in the words of registries. */
export function ownEntries({ credential }: RestDeps, baseUrl: string): EntryContent[] {
  const links = linksFrom(baseUrl);
  const identity = {
    InterfaceNamespace: namespace,
    ServerIdentity: credential.dn,
    ServerPublicKey: credential.pem,
  };
  return [
    { Endpoint: links.core, InterfaceName: 'CoreServices', ...identity },
    { Endpoint: links.factory(), InterfaceName: 'TargetSystemFactory', ...identity },
    {
      Endpoint: links.storageFactory(storageFactoryId),
      InterfaceName: 'StorageFactory',
      ...identity,
    },
  ];
}

/** In answers two of the names are others (unicore-rest 3.19). */
function renderEntry({
  Endpoint,
  InterfaceName,
  ...content
}: EntryContent): Rendered<typeof Service> {
  return { href: Endpoint, type: InterfaceName, ...content };
}

const listRegistries = operation({
  method: 'GET',
  path: '/',
  summary: 'The registries of this server: one',
  input: z.object({}),
  answers: answersJson(RegistryList),
  id: 'listRegistries',
  tag: 'registries',
  policy: everybody,
  run: (deps, _input, { caller, baseUrl, url }) =>
    json({
      registries: [linksFrom(baseUrl).registry()],
      client: renderClient(caller),
      server: renderServer(deps, caller),
      _links: hrefs({ self: url }),
    } satisfies Rendered<typeof RegistryList>),
});

const registryInput = { registryId: z.literal(registryId) };

const getRegistry = operation({
  method: 'GET',
  path: '/:registryId',
  summary: 'The services of this site, and of those that have told it of theirs',
  input: z.object({ ...registryInput, fields: fieldsParameter }),
  answers: answersJson(Registry),
  id: 'getRegistry',
  tag: 'registries',
  policy: everybody,
  run: (deps, { fields }, { baseUrl, url }) => {
    const own = ownEntries(deps, baseUrl);
    const hidden = new Set(own.map(({ Endpoint }) => Endpoint));
    const others = deps.registry.entries
      .list()
      .map(({ content }) => content)
      .filter(({ Endpoint }) => !hidden.has(Endpoint));
    const properties = {
      entries: [...own, ...others].map(renderEntry),
      ...ownedProperties({ ownerDn: deps.credential.dn, tags: [] }),
      _links: hrefs({ self: url }),
    } satisfies Rendered<typeof Registry>;
    return json(selectFields(properties, fields));
  },
});

const line = (most: number) =>
  z
    .string('must be a text')
    .max(most)
    .refine((text) => !/[\0\r\n]/.test(text), 'must be one line');
const webAddress = line(2_048).refine(
  (text) => URL.canParse(text) && /^https?:$/.test(new URL(text).protocol),
  'must be a URL with http or https',
);

const putEntry = operation({
  method: 'POST',
  path: '/:registryId',
  summary:
    'Adds a service of another server, or refreshes it; it vanishes when it is not refreshed',
  input: z.object({
    ...registryInput,
    Endpoint: webAddress,
    InterfaceName: line(256).min(1, 'must be given'),
    InterfaceNamespace: line(1_024).optional(),
    ServerIdentity: line(1_024).optional(),
    ServerPublicKey: z
      .string()
      .max(65_536)
      .regex(/^\s*-----BEGIN CERTIFICATE-----[\s\S]+-----END CERTIFICATE-----\s*$/, 'must be PEM')
      .optional(),
  }),
  body: 'json',
  answers: {
    201: {
      headers: {
        location: 'Address of the entry',
        'x-unicore-lifetime': 'Seconds until it vanishes',
      },
    },
  },
  errors: ['CONFLICT'],
  id: 'putRegistryEntry',
  tag: 'registries',
  policy: mayAddEntries,
  run: async ({ registry }, input, { caller, baseUrl }) => {
    const { Endpoint, InterfaceName, InterfaceNamespace, ServerIdentity, ServerPublicKey } = input;
    const name = { InterfaceName, InterfaceNamespace };
    const content = { Endpoint, ...name, ServerIdentity, ServerPublicKey };
    const { id } = await registry.entries.put(content, caller.dn);
    const lifetime = Math.floor(registry.entries.lifetimeMs / 1_000);
    const location = linksFrom(baseUrl).registryEntry(id);
    return { status: 201, headers: { location, 'x-unicore-lifetime': lifetime } };
  },
});

const getEntry = operation({
  method: 'GET',
  path: '/:entryId',
  summary: 'One entry that another server has added',
  input: z.object({ ...entryInput, fields: fieldsParameter }),
  answers: answersJson(RegistryEntry),
  id: 'getRegistryEntry',
  tag: 'registries',
  policy: everybody,
  run: ({ registry }, { entryId, fields }, { baseUrl }) => {
    const links = linksFrom(baseUrl);
    const entry = registry.entries.get(entryId);
    const properties = {
      ...renderEntry(entry.content),
      ...ownedProperties({ ...entry, tags: entry.tags ?? [] }),
      _links: hrefs({ self: links.registryEntry(entryId), parent: links.registry() }),
    } satisfies Rendered<typeof RegistryEntry>;
    return json(selectFields(properties, fields));
  },
});

const changeEntry = operation({
  method: 'PUT',
  path: '/:entryId',
  summary: 'Changes tags or termination time of an entry',
  input: z.looseObject(entryInput),
  body: 'json',
  answers: answersJson(Changes),
  id: 'changeRegistryEntry',
  tag: 'registries',
  policy: mayChangeEntry,
  run: async ({ registry: { entries } }, { entryId, ...members }) => {
    const tooLate = () => 'is later than it may live without being refreshed';
    const changeable: Changeable<Pick<PropertyChange, 'tags' | 'terminationMs'>> = {
      tags: tagsMember,
      terminationTime: terminationMember(entries.latestTerminationMs(), tooLate),
    };
    const answers = await changeMembers(members, changeable, (change) =>
      entries.change(entryId, change),
    );
    return json(answers);
  },
});

const deleteEntry = operation({
  method: 'DELETE',
  path: '/:entryId',
  summary: 'Takes back an entry',
  input: z.object(entryInput),
  answers: answersNothing,
  id: 'deleteRegistryEntry',
  tag: 'registries',
  policy: mayChangeEntry,
  run: async ({ registry }, { entryId }) => {
    await registry.entries.remove(entryId);
    return noContent();
  },
});

export const registryOperations = [listRegistries, getRegistry, putEntry];
export const registryEntryOperations = [getEntry, changeEntry, deleteEntry];
