import { adminOperations } from './admin.js';
import { baseOperations } from './base.js';
import type { Operation } from '#kernel/http/operation.js';
import { dataOperations, dataServices } from './data.js';
import type { RestDeps } from './deps.js';
import { eventOperations } from './events.js';
import { fileOperations } from './files.js';
import { forwardingOperations } from './forwarding.js';
import { jobOperations } from './jobs.js';
import { registryEntryOperations, registryOperations } from './registry.js';
import { reservationOperations } from './reservations.js';
import { siteOperations } from './sites.js';
import { storageFactoryOperations } from './storage-factories.js';
import { storageOperations } from './storages.js';
import { tokenOperations } from './tokens.js';

/** All that this service answers to, by prefix. */
export const restOperations: Readonly<Record<string, readonly Operation<RestDeps>[]>> = {
  '/rest/core': [
    ...baseOperations,
    ...tokenOperations,
    ...siteOperations,
    ...jobOperations,
    ...eventOperations,
    ...forwardingOperations,
    ...reservationOperations,
    ...dataOperations,
    ...storageOperations,
    ...storageFactoryOperations,
    ...fileOperations,
  ],
  '/rest/registries': registryOperations,
  '/rest/registryentries': registryEntryOperations,
  '/rest/admin': adminOperations,
  ...dataServices,
};
