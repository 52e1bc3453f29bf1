import { mount, type Mount } from '#kernel/http/router.js';
import type { DataDeps } from './deps.js';
import { fileOperations } from './files.js';
import { accessOperations, shareOperations } from './shares.js';
import { storageFactoryOperations } from './storage-factories.js';
import { storageOperations } from './storages.js';
import { taskOperations } from './tasks.js';
import { transferOperations } from './transfers.js';
import { capabilityOperations, clientTransferOperations } from './transfers-client.js';

/** Storages, files and what is done with them. */
export function dataMounts(deps: DataDeps): readonly Mount[] {
  return [
    // their addresses lie within those of storages and files, so they come first
    mount('/rest/core', taskOperations, deps),
    mount('/rest/core', [...clientTransferOperations, ...transferOperations], deps),
    mount(
      '/rest/core',
      [...storageOperations, ...storageFactoryOperations, ...fileOperations],
      deps,
    ),
    mount('/rest/files', capabilityOperations, deps),
    mount('/rest/share', shareOperations, deps),
    mount('/rest/access', accessOperations, deps),
  ];
}
