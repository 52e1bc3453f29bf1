import { formatDate } from '#kernel/clock.js';
import { RequestError } from '#kernel/http/operation.js';
import {
  isUsable,
  resourceStatusOf,
  type Idb,
  type IdbApplication,
  type IdbResource,
  type TargetSystem,
  type TargetSystems,
  type Usage,
  startsOf,
} from '#xnjs/index.js';
import type { Application, Rendered, Site } from './answers.js';
import { hrefs, type Links } from './links.js';
import { ownedProperties } from './properties.js';
import { renderUsage } from './usage-rendering.js';

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
export function canReserve(system: TargetSystem): boolean {
  return isUsable(system) && system.facts?.reservations === true;
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
    heard,
  }: {
    readonly siteName: string;
    readonly numberOfJobs: number;
    /** Of a machine with a network. */
    readonly addresses: readonly string[];
    /** Ids by name. */
    readonly storages: Readonly<Record<string, string>>;
    readonly queues?: readonly string[] | undefined;
    readonly usage?: Usage | undefined;
    /** When each source was last heard; ms since the epoch. */
    readonly heard: Heard;
  },
): Rendered<typeof Site> {
  const { flavour, countsFor = {} } = system;
  const self = links.site(system.id);
  return {
    ...ownedProperties(system),
    siteName,
    resourceStatus: resourceStatusOf(system),
    resourceStatusMessage: system.evidence.fact,
    umask: '077',
    supportsReservation: String(canReserve(system)),
    numberOfJobs,
    resources: renderResources(idb, queues),
    applications: idb.applications.map(applicationId),
    otherInfo: idb.info,
    remainingComputeTime: renderBudgets([system]),
    image: renderImage(system),
    ...(flavour !== undefined && { flavour }),
    parameters: system.parameters,
    ...(system.imageParameters && { imageParameters: system.imageParameters }),
    ...(system.volumes && { volumes: renderVolumes(system.volumes) }),
    start: system.start,
    countsFor,
    ...(usage && { usage: renderUsage(usage) }),
    vm: renderMachine(system, addresses, heard),
    _links: hrefs({
      ...machineLinks(system, self),
      parent: links.factory(),
      ...(system.jobId !== undefined && { job: links.job(system.jobId) }),
      ...Object.fromEntries(
        Object.entries(storages).map(([name, id]) => [`storage:${name}`, links.storage(id)]),
      ),
      ...Object.fromEntries(
        (system.volumes ?? []).flatMap(({ name, volumeId }) =>
          volumeId === undefined ? [] : [[`volume:${name}`, links.resource('volumes', volumeId)]],
        ),
      ),
    }),
  };
}

/**
 * By project (unicore-rest 3.2), as batch systems told last; all texts. A project that several name is shown as the
 * first of these systems has it.
 */
export function renderBudgets(
  systems: readonly TargetSystem[],
): Rendered<typeof Site>['remainingComputeTime'] {
  const budgets = systems.flatMap((system) => system.budgets ?? []).reverse();
  return Object.fromEntries(
    budgets.map(({ project, remaining, percent, units }) => [
      project,
      {
        remaining: String(remaining),
        units,
        ...(percent >= 0 && { rel: `${percent}%` }),
      },
    ]),
  );
}

function machineLinks({ image: { metadata } }: TargetSystem, self: string): Record<string, string> {
  return {
    self,
    jobs: `${self}/jobs`,
    applications: `${self}/applications`,
    console: `${self}/console`,
    ...(metadata.display && { screen: `${self}/screen` }),
    'action:freeze': `${self}/actions/freeze`,
    'action:thaw': `${self}/actions/thaw`,
    snapshots: `${self}/snapshots`,
    ...(metadata.format === 'qcow2' && { 'action:save-image': `${self}/actions/save-image` }),
  };
}

type Heard = ReturnType<TargetSystems['heard']>;

/** What it is made from, and why from that. */
function renderImage(system: TargetSystem): Rendered<typeof Site>['image'] {
  const { choice } = system;
  const { id, metadata } = system.image;
  const { name, version, os } = metadata;
  const why = choice !== undefined && { why: choice };
  return { ...{ id, name, version, os }, ...why, digests: digestsOf(system) };
}

/** How the machine is, who says so, and how it came up. */
function renderMachine(
  system: TargetSystem,
  addresses: readonly string[],
  heard: Heard,
): Rendered<typeof Site>['vm'] {
  const { state, driver, evidence, boot, facts, unapplied } = system;
  const { recovery = 'none', generation = 1, host, placement, cores } = system;
  return {
    state,
    driver,
    host,
    ...(placement !== undefined && { placement }),
    ...(cores && { cores }),
    transport: system.image.metadata.tsi.transport,
    addresses,
    evidence: { source: evidence.source, fact: evidence.fact, at: formatDate(evidence.atMs) },
    views: renderViews(system, heard),
    boot,
    starts: startsOf(system).map(({ fromMs, boot: marks, ...start }) => ({
      ...start,
      ...{ at: formatDate(fromMs), marks },
    })),
    ...{ recovery, generation },
    ...{ endAction: system.endAction ?? 'destroy', idle: system.idle },
    undertaking: system.undertaking?.do,
    ...(system.setup && { setup: renderSetup(system.setup) }),
    guest: facts,
    unappliedParameters: unapplied,
  };
}

function renderSetup({ problem, volumes }: NonNullable<TargetSystem['setup']>) {
  const shown = volumes.map(({ serial, ...report }) => ({ name: serial, ...report }));
  return {
    ...(problem !== undefined && { problem }),
    ...(shown.length > 0 && { volumes: shown }),
  };
}

export function renderVolumes(
  volumes: NonNullable<TargetSystem['volumes']>,
): NonNullable<Rendered<typeof Site>['volumes']> {
  return volumes.map(({ name, sizeMiB, path, volumeId }) => ({
    ...{ name, sizeMiB, path },
    ...(volumeId !== undefined && { volume: volumeId }),
  }));
}

function renderViews({ views = {} }: TargetSystem, heard: Heard) {
  return (['hypervisor', 'agent', 'guest'] as const).flatMap((source) => {
    const view = views[source];
    if (!view) return [];
    const { says, fact, sinceMs } = view;
    // what it said last stands until it is heard again
    const confirmed = formatDate(Math.max(sinceMs, heard[source] ?? 0));
    return [{ source, says, fact, since: formatDate(sinceMs), confirmed }];
  });
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
