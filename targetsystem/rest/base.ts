import { z } from 'zod';
import { formatDate } from '#kernel/clock.js';
import { fieldsParameter, selectFields } from '#kernel/http/fields.js';
import { everybody, operations } from '#kernel/http/operation.js';
import { json } from '#kernel/http/reply.js';
import type { Caller } from '#kernel/http/caller.js';
import { attributesOf } from '#kernel/security/caller.js';
import { answersJson } from '#kernel/http/answers.js';
import { Base, Registry, RegistryList } from './answers.js';
import type { RestDeps } from './deps.js';
import { hrefs, linksFrom, registryId, storageFactoryId } from './links.js';

const operation = operations<RestDeps>();

/** What a client may know of itself (unicore-rest 3.1, `client`). */
function renderClient(caller: Caller): Record<string, unknown> {
  const { roles, logins, groups, group, supplementaryGroups, queues, queue } = attributesOf(caller);
  return {
    dn: caller.dn,
    role: { selected: caller.role, availableRoles: roles },
    xlogin: {
      ...(caller.login !== undefined && { UID: caller.login }),
      ...(group !== undefined && { group }),
      availableUIDs: logins,
      availableGroups: groups,
      selectedSupplementaryGroups: supplementaryGroups,
    },
    ...(queues && {
      queues: { ...(queue !== undefined && { selected: queue }), availableQueues: queues },
    }),
    ...(caller.method !== undefined && { authenticationMethod: caller.method }),
  };
}

const getBase = operation({
  method: 'GET',
  path: '/',
  summary: 'Who the client is to this server, what the server is, and where everything lies',
  input: z.object({ fields: fieldsParameter }),
  answers: answersJson(Base),
  id: 'getBase',
  policy: everybody,
  run: (deps, { fields }, { caller, baseUrl }) => {
    const links = linksFrom(baseUrl);
    const { siteName, version, startedMs, clock, credential } = deps;
    const properties = {
      client: renderClient(caller),
      server: {
        siteName,
        version,
        upSince: formatDate(startedMs),
        currentTime: formatDate(clock.now()),
        credential: {
          dn: credential.dn,
          issuer: credential.issuer,
          expires: formatDate(credential.expiresMs),
        },
        trustedCAs: [credential.issuer],
        trustedSAMLIssuers: [],
        externalConnections: deps.connections(),
        jobSubmission: { enabled: true, message: '' },
        ...(caller.role === 'admin' && { idb: deps.idb.problem ?? 'OK' }),
      },
      _links: hrefs({
        factories: links.collection('factories'),
        sites: links.collection('sites'),
        jobs: links.collection('jobs'),
        storages: links.collection('storages'),
        storagefactories: links.collection('storagefactories'),
        transfers: links.collection('transfers'),
        'client-server-transfers': links.collection('client-server-transfers'),
        tasks: links.collection('tasks'),
        images: deps.imagesUrl(baseUrl),
      }),
    };
    return json(selectFields(properties, fields));
  },
});

const registryEntries = (deps: RestDeps, baseUrl: string): object[] => {
  const links = linksFrom(baseUrl);
  const identity = {
    InterfaceNamespace: 'https://www.unicore.eu/rest',
    ServerIdentity: deps.credential.dn,
    ServerPublicKey: deps.credential.pem,
  };
  return [
    { href: links.core, type: 'CoreServices', ...identity },
    { href: links.factory(), type: 'TargetSystemFactory', ...identity },
    { href: links.storageFactory(storageFactoryId), type: 'StorageFactory', ...identity },
  ];
};

const listRegistries = operation({
  method: 'GET',
  path: '/',
  summary: 'The registries of this server: one',
  input: z.object({}),
  answers: answersJson(RegistryList),
  id: 'listRegistries',
  tag: 'registries',
  policy: everybody,
  run: (_deps, _input, { caller, baseUrl, url }) =>
    json({
      registries: [linksFrom(baseUrl).registry()],
      client: renderClient(caller),
      _links: hrefs({ self: url }),
    }),
});

const getRegistry = operation({
  method: 'GET',
  path: '/:registryId',
  summary: 'The services of this site, for clients that start from a registry',
  input: z.object({ registryId: z.literal(registryId) }),
  answers: answersJson(Registry),
  id: 'getRegistry',
  tag: 'registries',
  policy: everybody,
  run: (deps, _input, { baseUrl, url }) =>
    json({
      entries: registryEntries(deps, baseUrl),
      owner: deps.credential.dn,
      acl: [],
      tags: [],
      _links: hrefs({ self: url }),
    }),
});

export const baseOperations = [getBase];
export const registryOperations = [listRegistries, getRegistry];
