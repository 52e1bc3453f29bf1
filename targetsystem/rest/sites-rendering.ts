import { formatDate } from '#kernel/clock.js';
import type { IdbApplication, TargetSystem } from '#xnjs/index.js';
import { hrefs, type Links } from './links.js';
import { ownedResource } from './render.js';

/** How our states look to clients that know UNICORE's `resourceStatus` only. */
const resourceStatus = {
  INITIALIZING: 'INITIALIZING',
  READY: 'READY',
  UNREACHABLE: 'ERROR',
  FAILED: 'ERROR',
  DESTROYING: 'SHUTTING_DOWN',
  DESTROYED: 'SHUTTING_DOWN',
} as const satisfies Record<TargetSystem['state'], string>;

/** `Date---v1.0`, the id of an application in lists. */
export function applicationId({ Name, Version }: Pick<IdbApplication, 'Name' | 'Version'>): string {
  return `${Name}---v${Version}`;
}

/** Ranges of what a job may ask of one virtual machine (unicore-rest 3.2, `resources`). */
function resourceRanges({ cpus, memoryMiB }: TargetSystem['parameters']): Record<string, unknown> {
  return {
    vm: {
      Runtime: '1-2592000',
      Nodes: '1-1',
      CPUsPerNode: `1-${cpus}`,
      TotalCPUs: `1-${cpus}`,
      MemoryPerNode: `1048576-${memoryMiB * 1024 * 1024}`,
    },
  };
}

/** A target system as `GET /sites/{id}` shows it; `vm` is our extension. */
export function renderSite(
  system: TargetSystem,
  links: Links,
  siteName: string,
  numberOfJobs: number,
): Record<string, unknown> {
  const { metadata } = system.image;
  return {
    ...ownedResource(system),
    siteName,
    resourceStatus: resourceStatus[system.state],
    resourceStatusMessage: system.evidence.fact,
    umask: '077',
    supportsReservation: 'false',
    numberOfJobs,
    resources: resourceRanges(system.parameters),
    applications: metadata.applications.map(applicationId),
    otherInfo: {},
    remainingComputeTime: {},
    image: { id: system.image.id, name: metadata.name, version: metadata.version, os: metadata.os },
    parameters: system.parameters,
    vm: {
      state: system.state,
      driver: system.driver,
      evidence: {
        source: system.evidence.source,
        fact: system.evidence.fact,
        at: formatDate(system.evidence.atMs),
      },
      boot: system.boot,
      ...(system.facts && { guest: system.facts }),
    },
    _links: hrefs({
      self: links.site(system.id),
      jobs: `${links.site(system.id)}/jobs`,
      applications: `${links.site(system.id)}/applications`,
      parent: links.factory(),
      'storage:HOME': links.storage(homeStorageId(system.id)),
      console: `${links.site(system.id)}/console`,
    }),
  };
}

/** `GET …/applications/{id}` (unicore-rest 3.3). */
export function renderApplication(application: IdbApplication): Record<string, unknown> {
  return {
    ApplicationName: application.Name,
    ApplicationVersion: application.Version,
    ApplicationDescription: application.Description ?? '',
    Options: application.Parameters ?? {},
  };
}

export const homeStorageId = (siteId: string): string => `${siteId}-HOME`;
