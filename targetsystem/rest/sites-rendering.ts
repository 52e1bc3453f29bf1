import { formatDate } from '#kernel/clock.js';
import { RequestError } from '#kernel/http/operation.js';
import type { Idb, IdbApplication, IdbResource, TargetSystem, Usage } from '#xnjs/index.js';
import type { Application, Rendered, Site } from './answers.js';
import { hrefs, type Links } from './links.js';
import { ownedProperties } from './properties.js';
import { renderUsage } from './usage-rendering.js';

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
): Rendered<typeof Site>['resources'] {
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

/** Its agent says so; of other TSIs it is not known before one is asked for. */
export function canReserve({ facts, state }: TargetSystem): boolean {
  return state === 'READY' && facts?.reservations === true;
}

/** A target system as `GET /sites/{id}` shows it; `image`, `parameters` and `vm` are our extension. */
export function renderSite(
  system: TargetSystem,
  idb: Idb,
  links: Links,
  {
    siteName,
    numberOfJobs,
    addresses,
    storages,
    queues,
    usage,
  }: {
    readonly siteName: string;
    readonly numberOfJobs: number;
    /** Of a machine with a network. */
    readonly addresses: readonly string[];
    /** Ids by name. */
    readonly storages: Readonly<Record<string, string>>;
    readonly queues?: readonly string[] | undefined;
    readonly usage?: Usage | undefined;
  },
): Rendered<typeof Site> {
  const { metadata } = system.image;
  const self = links.site(system.id);
  return {
    ...ownedProperties(system),
    siteName,
    resourceStatus: resourceStatus[system.state],
    resourceStatusMessage: system.evidence.fact,
    umask: '077',
    supportsReservation: String(canReserve(system)),
    numberOfJobs,
    resources: renderResources(idb, queues),
    applications: idb.applications.map(applicationId),
    otherInfo: idb.info,
    remainingComputeTime: {},
    image: {
      id: system.image.id,
      name: metadata.name,
      version: metadata.version,
      os: metadata.os,
      digests: digestsOf(system),
    },
    parameters: system.parameters,
    start: system.start,
    ...(usage && { usage: renderUsage(usage) }),
    vm: renderMachine(system, addresses),
    _links: hrefs({
      self,
      jobs: `${self}/jobs`,
      applications: `${self}/applications`,
      console: `${self}/console`,
      parent: links.factory(),
      ...(system.jobId !== undefined && { job: links.job(system.jobId) }),
      ...Object.fromEntries(
        Object.entries(storages).map(([name, id]) => [`storage:${name}`, links.storage(id)]),
      ),
    }),
  };
}

/** How the machine is, who says so, and how it came up. */
function renderMachine(
  system: TargetSystem,
  addresses: readonly string[],
): Rendered<typeof Site>['vm'] {
  const { state, driver, evidence, boot, facts, unapplied } = system;
  return {
    state,
    driver,
    transport: system.image.metadata.tsi.transport,
    addresses,
    evidence: { source: evidence.source, fact: evidence.fact, at: formatDate(evidence.atMs) },
    boot,
    guest: facts,
    unappliedParameters: unapplied,
  };
}

/** What the machine was made from, by part: `sha256:…`. */
function digestsOf({ image: { parts } }: TargetSystem): Record<string, string> {
  return Object.fromEntries(
    Object.entries(parts).map(([name, { sha256 }]) => [name, `sha256:${sha256}`]),
  );
}

/** `GET …/applications/{id}` (unicore-rest 3.3). */
function renderApplication(application: IdbApplication): Rendered<typeof Application> {
  return {
    ApplicationName: application.Name,
    ApplicationVersion: application.Version,
    ApplicationDescription: application.Description ?? '',
    Options: application.Parameters ?? {},
  };
}

/** The one of that id. @throws `NOT_FOUND` */
export function renderApplicationOf(
  applications: readonly IdbApplication[],
  id: string,
): Rendered<typeof Application> {
  const found = applications.find((each) => applicationId(each) === id);
  if (found) return renderApplication(found);
  throw new RequestError('NOT_FOUND', `there is no application ${id} here`);
}
