import { formatDate } from '#kernel/clock.js';
import type { Idb, IdbApplication, IdbResource, TargetSystem } from '#xnjs/index.js';
import { hrefs, type Links } from './links.js';
import { ownedProperties } from './properties.js';

/** How our states look to clients that know UNICORE's `resourceStatus` only. */
export const resourceStatus = {
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

/**
 * What a job may ask for, by partition and resource (unicore-rest 3.2, `resources`).
 * @param queues the only partitions that the caller may use; absent: all
 */
export function renderResources(
  { partitions }: Idb,
  queues?: readonly string[],
): Record<string, unknown> {
  const usable = partitions.filter(({ name }) => queues?.includes(name) ?? true);
  return Object.fromEntries(
    usable.map(({ name, resources }) => [
      name,
      Object.fromEntries(
        Object.entries(resources).map(([resource, what]) => [resource, renderResource(what)]),
      ),
    ]),
  );
}

function renderResource(resource: IdbResource): string | readonly string[] {
  switch (resource.Type) {
    case 'INT':
    case 'DOUBLE':
      return `${resource.Min}-${resource.Max}`;
    case 'CHOICE':
      return resource.AllowedValues;
    case 'BOOLEAN':
      return ['true', 'false'];
    case 'STRING':
      return '*';
  }
}

/** A target system as `GET /sites/{id}` shows it; `image`, `parameters` and `vm` are our extension. */
export function renderSite(
  system: TargetSystem,
  idb: Idb,
  links: Links,
  {
    siteName,
    numberOfJobs,
    storages,
    queues,
  }: {
    readonly siteName: string;
    readonly numberOfJobs: number;
    /** Ids by name. */
    readonly storages: Readonly<Record<string, string>>;
    readonly queues?: readonly string[] | undefined;
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
    resources: renderResources(idb, queues),
    applications: idb.applications.map(applicationId),
    otherInfo: idb.info,
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
