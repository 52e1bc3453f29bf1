import { baseOperations, registryOperations } from './base.js';
import { dataOperations } from './data.js';
import { forwardingOperations } from './forwarding.js';
import { jobOperations } from './jobs.js';
import { siteOperations } from './sites.js';
import { tokenOperations } from './tokens.js';

const coreOperations = [
  ...baseOperations,
  ...tokenOperations,
  ...siteOperations,
  ...jobOperations,
  ...forwardingOperations,
  ...dataOperations['/rest/core'],
];
/** What is below `/rest/core`, for `createTypedClient`. */
export type CoreOperation = (typeof coreOperations)[number];

/** All that this service answers to, by prefix; the first is where it begins. */
export const restOperations = {
  ...dataOperations,
  '/rest/core': coreOperations,
  '/rest/registries': registryOperations,
};
