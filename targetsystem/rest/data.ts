import { accessOperations, shareOperations } from './shares.js';
import { taskOperations } from './tasks.js';
import { transferOperations } from './transfers.js';
import { capabilityOperations, clientTransferOperations } from './transfers-client.js';
import { volumeOperations } from './volumes.js';

/** Before those of storages and files, within whose addresses theirs lie. */
export const dataOperations = [
  ...taskOperations,
  ...volumeOperations,
  ...clientTransferOperations,
  ...transferOperations,
];

/** Services of their own, by prefix. */
export const dataServices = {
  '/rest/files': capabilityOperations,
  '/rest/share': shareOperations,
  '/rest/access': accessOperations,
};
