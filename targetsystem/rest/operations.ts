import { adminOperations } from './admin.js';
import { baseOperations } from './base.js';
import { consoleOperations } from './console.js';
import { screenOperations } from './screen.js';
import { dataOperations, dataServices } from './data.js';
import { eventOperations } from './events.js';
import { factoryOperations } from './factories.js';
import { fileOperations } from './files.js';
import { forwardingOperations } from './forwarding.js';
import { jobOperations } from './jobs.js';
import { registryEntryOperations, registryOperations } from './registry.js';
import { reservationOperations } from './reservations.js';
import { snapshotOperations } from './sites-snapshots.js';
import { siteOperations } from './sites.js';
import { storageFactoryOperations } from './storage-factories.js';
import { storageOperations } from './storages.js';
import { tokenOperations } from './tokens.js';

const coreOperations = [
  ...baseOperations,
  ...tokenOperations,
  ...factoryOperations,
  ...snapshotOperations,
  ...siteOperations,
  ...consoleOperations,
  ...screenOperations,
  ...jobOperations,
  ...eventOperations,
  ...forwardingOperations,
  ...reservationOperations,
  ...dataOperations,
  ...storageOperations,
  ...storageFactoryOperations,
  ...fileOperations,
];
/** What is below `/rest/core`, for `createTypedClient`. */
export type CoreOperation = (typeof coreOperations)[number];

/** All that this service answers to, by prefix; the first is where it begins. */
export const restOperations = {
  '/rest/core': coreOperations,
  '/rest/registries': registryOperations,
  '/rest/registryentries': registryEntryOperations,
  '/rest/admin': adminOperations,
  ...dataServices,
};
