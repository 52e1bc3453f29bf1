import { formatDate } from '#kernel/clock.js';
import type { IdbApplication, TargetSystem } from '#xnjs/index.js';
import { hrefs, type Links } from './links.js';
import { ownedProperties } from './properties.js';

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

/** Ranges of what a job may ask of one machine (unicore-rest 3.2, `resources`). */
export function resourceRanges({
  cpus,
  memoryMiB,
}: TargetSystem['parameters']): Record<string, unknown> {
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

/** A target system as `GET /sites/{id}` shows it; `image`, `parameters` and `vm` are our extension. */
export function renderSite(
  system: TargetSystem,
  links: Links,
  {
    siteName,
    numberOfJobs,
    storages,
  }: {
    readonly siteName: string;
    readonly numberOfJobs: number;
    /** Ids by name. */
    readonly storages: Readonly<Record<string, string>>;
  },
): Record<string, unknown> {
  const { metadata } = system.image;
  const self = links.site(system.id);
  return {
    ...ownedProperties(system),
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
      guest: system.facts,
    },
    _links: hrefs({
      self,
      jobs: `${self}/jobs`,
      applications: `${self}/applications`,
      console: `${self}/console`,
      parent: links.factory(),
      ...Object.fromEntries(
        Object.entries(storages).map(([name, id]) => [`storage:${name}`, links.storage(id)]),
      ),
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
