import { systemClock } from '#kernel/clock.js';
import { CarryingConfig } from '#targetsystem/rest/carried-connections.js';
import { openForwardings } from '#targetsystem/rest/forwarding.js';
import type { RestDeps } from '#targetsystem/rest/deps.js';

type Needed = Pick<RestDeps, 'jobs' | 'systems'>;

/** What the REST operations work with, where a test has nothing of its own; parts that it leaves out are not there. */
export function restDeps(own: Needed & Partial<RestDeps>): RestDeps {
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
    forwardings: openForwardings(own.jobs, CarryingConfig.parse({})),
    ...own,
  };
  return parts as RestDeps;
}
