import type { Operation } from '#kernel/http/operation.js';
import type { RestDeps } from './deps.js';
import { fileOperations } from './files.js';
import { accessOperations, shareOperations } from './shares.js';
import { storageFactoryOperations } from './storage-factories.js';
import { storageOperations } from './storages.js';
import { taskOperations } from './tasks.js';
import { transferOperations } from './transfers.js';
import { capabilityOperations, clientTransferOperations } from './transfers-client.js';

/** Storages, files and what is done with them, by prefix. */
export const dataOperations = {
  '/rest/core': [
    // their addresses lie within those of storages and files, so they come first
    ...taskOperations,
    ...clientTransferOperations,
    ...transferOperations,
    ...storageOperations,
    ...storageFactoryOperations,
    ...fileOperations,
  ],
  '/rest/files': capabilityOperations,
  '/rest/share': shareOperations,
  '/rest/access': accessOperations,
} satisfies Readonly<Record<string, readonly Operation<RestDeps>[]>>;
