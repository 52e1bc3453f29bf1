import type { PolicyView } from '#kernel/security/policy.js';
import type { CallerName } from './storages-rig.js';

/** Who may, in each kind of operation. Everybody else gets 403. */
export const mayBy = {
  everybody: ['nobody', 'guest', 'bob', 'reader', 'writer', 'modifier', 'alice', 'admin'],
  known: ['guest', 'bob', 'reader', 'writer', 'modifier', 'alice', 'admin'],
  users: ['bob', 'reader', 'writer', 'modifier', 'alice', 'admin'],
  read: ['reader', 'writer', 'modifier', 'alice', 'admin'],
  write: ['writer', 'modifier', 'alice', 'admin'],
  modify: ['modifier', 'alice', 'admin'],
  own: ['alice', 'admin'],
  admin: ['admin'],
} as const satisfies Record<string, readonly CallerName[]>;
export type Who = keyof typeof mayBy;

/** The same from what an operation says of itself, for the API document. */
export function whoBy({ rule, level, roles = [] }: PolicyView): Who | undefined {
  if (rule === 'everybody' || rule === 'capability') return 'everybody';
  if (rule === 'authenticated') return 'known';
  if (rule === 'owner') return 'own';
  if (rule === 'acl') return level;
  return roles.join() === 'admin' ? 'admin' : 'users';
}

/** A row says who may, and what is sent if not what is usual: `{}` as JSON where there is a body. */
export type Row = Who | { readonly who: Who; readonly body?: object | string };

/**
 * What is allowed by whom: written by hand, compared with what the server does. Parameters of the path are filled with
 * the resources of the test (`fixtures` in `security.test.ts`), in which `reader`, `writer` and `modifier` are named by
 * the ACL.
 */
export const access: Readonly<Record<string, Row>> = {
  'GET /rest/core/': 'everybody',
  'GET /rest/core/token': 'known',
  'GET /rest/core/certificate': 'everybody',
  'GET /rest/registries/': 'everybody',
  'GET /rest/registries/:registryId': 'everybody',

  'GET /rest/core/factories': 'everybody',
  'GET /rest/core/factories/:factoryId': 'everybody',
  'GET /rest/core/factories/:factoryId/applications': 'everybody',
  'GET /rest/core/factories/:factoryId/applications/:applicationId': 'everybody',
  // more than there is, so that nothing is made
  'POST /rest/core/factories/:factoryId': { who: 'users', body: { image: 'i', parameters: { cpus: 99 } } }, // prettier-ignore
  'POST /rest/core/sites': { who: 'users', body: { image: 'i', parameters: { cpus: 99 } } },
  'GET /rest/core/sites': 'everybody',
  'GET /rest/core/sites/:siteId': 'read',
  'PUT /rest/core/sites/:siteId': 'modify',
  'DELETE /rest/core/sites/:siteId': 'own',
  // by WebSocket, to type, `modify`: test/grid/console.test.ts
  'GET /rest/core/sites/:siteId/console': 'read',
  'GET /rest/core/sites/:siteId/applications': 'read',
  'GET /rest/core/sites/:siteId/applications/:applicationId': 'read',
  'GET /rest/core/sites/:siteId/jobs': 'read',
  'POST /rest/core/sites/:siteId': 'write',
  'POST /rest/core/sites/:siteId/jobs': 'write',

  'GET /rest/core/jobs': 'everybody',
  'POST /rest/core/jobs': 'users',
  'GET /rest/core/jobs/:jobId': 'read',
  'POST /rest/core/jobs/:jobId': 'write',
  'PUT /rest/core/jobs/:jobId': 'modify',
  'DELETE /rest/core/jobs/:jobId': 'own',
  'GET /rest/core/jobs/:jobId/details': 'read',
  'GET /rest/core/jobs/:jobId/submitted': 'read',
  'POST /rest/core/jobs/:jobId/actions/:action': 'write',
  // it may do what the job's user may
  'GET /rest/core/jobs/:jobId/forward-port': 'modify',

  'GET /rest/core/storages': 'everybody',
  'POST /rest/core/storages': { who: 'users', body: { type: 'HOST' } },
  'GET /rest/core/storages/:storageId': 'read',
  'PUT /rest/core/storages/:storageId': 'modify',
  'DELETE /rest/core/storages/:storageId': 'own',
  'GET /rest/core/storages/:storageId/search': 'read',
  'POST /rest/core/storages/:storageId/actions/:action': { who: 'write', body: { from: 'a', to: 'b' } }, // prettier-ignore
  'GET /rest/core/storages/:storageId/files{/*path}': 'read',
  'PUT /rest/core/storages/:storageId/files{/*path}': { who: 'write', body: 'text' },
  'POST /rest/core/storages/:storageId/files{/*path}': 'write',
  'DELETE /rest/core/storages/:storageId/files{/*path}': 'write',

  'GET /rest/core/storagefactories': 'everybody',
  'GET /rest/core/storagefactories/:factoryId': 'everybody',
  'POST /rest/core/storagefactories/:factoryId': 'users',
};
