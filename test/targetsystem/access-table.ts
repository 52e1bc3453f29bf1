import type { PolicyView } from '#kernel/security/policy.js';
import type { CallerName } from './storages-rig.js';

/** Who may, in each kind of operation. Everybody else gets 403. */
export const mayBy = {
  everybody: ['nobody', 'server', 'guest', 'bob', 'reader', 'writer', 'modifier', 'alice', 'admin'], // prettier-ignore
  known: ['server', 'guest', 'bob', 'reader', 'writer', 'modifier', 'alice', 'admin'],
  users: ['bob', 'reader', 'writer', 'modifier', 'alice', 'admin'],
  read: ['reader', 'writer', 'modifier', 'alice', 'admin'],
  write: ['writer', 'modifier', 'alice', 'admin'],
  modify: ['modifier', 'alice', 'admin'],
  own: ['alice', 'admin'],
  admin: ['admin'],
  /** Who tells the registry of services: here also the owner of the entry. */
  servers: ['server', 'admin'],
  /** The test's share is for `reader`. */
  sharing: ['reader', 'alice', 'admin'],
} as const satisfies Record<string, readonly CallerName[]>;
export type Who = keyof typeof mayBy;

/** The same from what an operation says of itself, for the API document. */
export function whoBy({ rule, level, resource, roles = [] }: PolicyView): Who | undefined {
  if (resource === 'registry entry') return 'servers';
  if (resource === 'share' && level === 'read') return 'sharing';
  if (rule === 'everybody' || rule === 'capability') return 'everybody';
  if (rule === 'authenticated') return 'known';
  if (rule === 'owner') return 'own';
  if (rule === 'acl') return level;
  if (roles.includes('server')) return 'servers';
  return roles.join() === 'admin' ? 'admin' : 'users';
}

type Body = Readonly<Record<string, unknown>> | string;
/** A row says who may, and what is sent if not what is usual: `{}` as JSON where there is a body. */
export type Row =
  | Who
  | {
      readonly who: Who;
      readonly body?: Body | ((name: CallerName) => Body);
      /** Strangers are asked to log in. */
      readonly login?: true;
      /** To these it is as if there were nothing. */
      readonly hiddenFrom?: readonly CallerName[];
    };

/** From whom the share is hidden that is for `reader`. */
const hiddenFrom: readonly CallerName[] = ['server', 'guest', 'bob', 'writer', 'modifier'];

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
  'POST /rest/registries/:registryId': {
    who: 'servers',
    // an entry is its server's: each has its own
    body: (name) => ({ Endpoint: `https://${name}.example/S/rest/core`, InterfaceName: 'Core' }),
  },
  'GET /rest/registryentries/:entryId': 'everybody',
  'PUT /rest/registryentries/:entryId': 'servers',
  'DELETE /rest/registryentries/:entryId': 'servers',

  'GET /rest/admin/': 'admin',
  ...Object.fromEntries(
    [
      ...[
        'ToggleJobSubmission',
        'ShowServerUsageOverview',
        'ListJobs',
        'ShowJobDetails',
        'AbortJob',
      ],
      ...['ListPartitions', 'IssueAPIToken', 'ResourceAvailability', 'FreezeTargetSystems'],
      ...['ThawTargetSystems', 'DrainHost', 'DeclareHostLost', 'GetMemoryUsage'],
      // none has such a parameter, so that nothing is done
    ].map((name) => [`POST /rest/admin/actions/${name}`, { who: 'admin', body: { nothing: 1 } }]),
  ),
  'GET /rest/admin/accounting': 'admin',
  'GET /rest/admin/hosts': 'admin',

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
  'POST /rest/core/sites/:siteId/actions/freeze': 'own',
  'POST /rest/core/sites/:siteId/actions/thaw': 'own',
  'GET /rest/core/sites/:siteId/snapshots': 'read',
  'POST /rest/core/sites/:siteId/snapshots': 'own',
  'GET /rest/core/sites/:siteId/snapshots/:snapshotId': 'read',
  'DELETE /rest/core/sites/:siteId/snapshots/:snapshotId': 'own',
  'POST /rest/core/sites/:siteId/snapshots/:snapshotId/actions/revert': 'own',
  'POST /rest/core/sites/:siteId/actions/save-image': { who: 'own', body: { version: '2' } },
  // by WebSocket, to type, `modify`: test/grid/console.test.ts
  'GET /rest/core/sites/:siteId/console': 'read',
  'GET /rest/core/sites/:siteId/screen': 'modify',
  'GET /rest/core/sites/:siteId/applications': 'read',
  'GET /rest/core/sites/:siteId/applications/:applicationId': 'read',
  'GET /rest/core/sites/:siteId/jobs': 'read',
  'POST /rest/core/sites/:siteId': 'write',
  'POST /rest/core/sites/:siteId/jobs': 'write',

  'GET /rest/core/jobs': 'everybody',
  'POST /rest/core/jobs': { who: 'users', login: true },
  'GET /rest/core/jobs/:jobId': 'read',
  'POST /rest/core/jobs/:jobId': 'write',
  'PUT /rest/core/jobs/:jobId': 'modify',
  'DELETE /rest/core/jobs/:jobId': 'own',
  'GET /rest/core/jobs/:jobId/details': 'read',
  'GET /rest/core/jobs/:jobId/submitted': 'read',
  'POST /rest/core/jobs/:jobId/actions/:action': 'write',
  // it may do what the job's user may
  'GET /rest/core/jobs/:jobId/forward-port': 'modify',

  'GET /rest/core/events': 'users',

  'GET /rest/core/reservations': 'everybody',
  // of a target system that is not there, so that nothing is made
  'POST /rest/core/reservations': { who: 'users', login: true, body: { targetSystem: 'x', 'Start time': '2099-01-01 00:00' } }, // prettier-ignore
  'GET /rest/core/reservations/:reservationId': 'read',
  'GET /rest/core/reservations/:reservationId/details': 'read',
  'PUT /rest/core/reservations/:reservationId': 'modify',
  'DELETE /rest/core/reservations/:reservationId': 'own',

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

  'POST /rest/core/storages/search': { who: 'users', body: { query: 'x', resources: [] } },
  'POST /rest/core/storages/:storageId/actions/extract': 'write',
  'POST /rest/core/storages/:storageId/files/actions/extract{/*path}': 'write',
  'POST /rest/core/storages/:storageId/actions/copy-async': { who: 'write', body: { from: 'a', to: 'b' } }, // prettier-ignore
  'GET /rest/core/tasks': 'everybody',
  'GET /rest/core/tasks/:id': 'read',
  'PUT /rest/core/tasks/:id': 'modify',
  'DELETE /rest/core/tasks/:id': 'own',
  'POST /rest/core/tasks/:id/actions/abort': 'write',

  // larger than it may be, so that nothing is made
  'POST /rest/core/volumes': { who: 'users', body: { name: 'large', sizeMiB: 1_000 } },
  'GET /rest/core/volumes': 'everybody',
  'GET /rest/core/volumes/:id': 'read',
  'PUT /rest/core/volumes/:id': 'modify',
  'DELETE /rest/core/volumes/:id': 'own',

  // by a protocol that is not there, so that nothing is fetched
  'POST /rest/core/storages/:storageId/transfers': { who: 'write', body: { file: 'f', source: 'nothing://x/y' } }, // prettier-ignore
  'GET /rest/core/transfers': 'everybody',
  'GET /rest/core/transfers/:id': 'read',
  'PUT /rest/core/transfers/:id': 'modify',
  'DELETE /rest/core/transfers/:id': 'own',
  'POST /rest/core/transfers/:id/actions/abort': 'write',

  'POST /rest/core/storages/:storageId/imports': { who: 'write', body: { file: 'f' } },
  'POST /rest/core/storages/:storageId/exports': { who: 'read', body: { file: 'kept/file' } },
  'GET /rest/core/client-server-transfers': 'everybody',
  'GET /rest/core/client-server-transfers/:id': 'read',
  'PUT /rest/core/client-server-transfers/:id': 'modify',
  'DELETE /rest/core/client-server-transfers/:id': 'own',
  'GET /rest/files/:key': 'everybody',
  'PUT /rest/files/:key': { who: 'everybody', body: 'sent' },

  'GET /rest/share/': { who: 'known', login: true },
  'GET /rest/share/:server': { who: 'known', login: true },
  // what is nobody's, so that nothing is shared
  'POST /rest/share/:server': { who: 'known', login: true, body: { user: 'CN=X', path: '/none/x' } }, // prettier-ignore
  'GET /rest/share/:server/:shareId': { who: 'sharing', login: true, hiddenFrom },
  'PUT /rest/share/:server/:shareId': { who: 'own', login: true, hiddenFrom },
  'DELETE /rest/share/:server/:shareId': { who: 'own', login: true, hiddenFrom },
  // the address of a share is as good as a password only if it is for everybody
  'GET /rest/access/:server/:shareId{/*path}': 'everybody',
  'PUT /rest/access/:server/:shareId{/*path}': { who: 'everybody', body: 'written' },

  'GET /rest/core/storagefactories': 'everybody',
  'GET /rest/core/storagefactories/:factoryId': 'everybody',
  'POST /rest/core/storagefactories/:factoryId': 'users',
};
