import { systemClock } from '#kernel/clock.js';
import {
  ForwardingConfig,
  ForwardingConnections,
} from '#targetsystem/rest/forwarding-connections.js';
import type { RestDeps } from '#targetsystem/rest/deps.js';

type Needed = Pick<RestDeps, 'jobs' | 'systems'>;

/** What the REST operations work with, where a test has nothing of its own; parts that it leaves out are not there. */
export function restDeps(own: Needed & Partial<RestDeps>): RestDeps {
  const config = ForwardingConfig.parse({});
  const parts: Partial<RestDeps> = {
    siteName: 'TEST',
    version: '11.1.0',
    startedMs: 0,
    clock: systemClock,
    imagesUrl: (base) => base,
    connections: () => ({}),
    submission: { state: { enabled: true, message: '' } } as unknown as RestDeps['submission'],
    issueToken: () => Promise.reject(new TypeError('no site issues tokens')),
    credential: { dn: 'CN=Server,O=Grid', issuer: 'CN=CA', expiresMs: 0, pem: '' },
    forwardings: new ForwardingConnections({ jobs: own.jobs, targets: own.systems, config }),
    ...own,
  };
  return parts as RestDeps;
}
