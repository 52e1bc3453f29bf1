import { z } from 'zod';
import { formatDate } from '#kernel/clock.js';
import { fieldsParameter, selectFields } from '#kernel/http/fields.js';
import { everybody, operations } from '#kernel/http/operation.js';
import { json } from '#kernel/http/reply.js';
import type { Caller } from '#kernel/http/caller.js';
import { attributesOf } from '#kernel/security/caller.js';
import { answersJson } from '#kernel/http/answers.js';
import { Base, type Client, type Rendered, type Server } from './answers.js';
import type { RestDeps } from './deps.js';
import { hrefs, linksFrom } from './links.js';

const operation = operations<RestDeps>();

/** What a client may know of itself (unicore-rest 3.1, `client`). */
export function renderClient(caller: Caller): Rendered<typeof Client> {
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

/** What this server is (`server`). */
export function renderServer(deps: RestDeps, caller: Caller): Rendered<typeof Server> {
  const { siteName, version, startedMs, clock, credential } = deps;
  return {
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
    jobSubmission: deps.submission.state,
    ...(caller.role === 'admin' && { idb: deps.idb.problem ?? 'OK' }),
  };
}

/** The lists below the base resource, each under its own name. */
// prettier-ignore -- one a line, so that changes do not meet
const collections = [
  'factories',
  'sites',
  'jobs',
  'reservations',
  'storages',
  'storagefactories',
  'transfers',
  'client-server-transfers',
  'tasks',
  'volumes',
] as const;

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
    const properties = {
      client: renderClient(caller),
      server: renderServer(deps, caller),
      _links: hrefs({
        ...Object.fromEntries(collections.map((name) => [name, links.collection(name)])),
        images: deps.imagesUrl(baseUrl),
      }),
    } satisfies Rendered<typeof Base>;
    return json(selectFields(properties, fields));
  },
});

export const baseOperations = [getBase];
