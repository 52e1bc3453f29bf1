import type { z } from 'zod';
import type { Site as SiteAnswer } from '#targetsystem/rest/answers.js';
import type { Plan } from '#targetsystem/rest/answers-placement.js';
import { GridError } from '#kernel/errors.js';
import { drawTimeline, lastMark } from '../quickstart/timeline.js';
import { assignments } from './assignments.js';
import { printPlan } from './offer.js';
import { printJson, printRows, tell } from './print.js';
import { drawStart, redraw } from './progress.js';
import type { Session } from './profile.js';
import { deleteAndWait, idOf, listPaths, pathOf, pollUntil } from './resources.js';
import { volumeWish } from './volumes.js';

type Site = z.output<typeof SiteAnswer>;

/** As the operation takes them. */
export const endActions = ['destroy', 'freeze'] as const;
export const recoveries = ['none', 'restart', 'restore'] as const;

export type NewSite = {
  readonly cpus?: number;
  readonly memory?: number;
  readonly disk?: number;
  readonly network?: string;
  readonly pinned?: boolean;
  readonly flavour?: string;
  readonly hostLabel?: readonly string[];
  readonly set?: readonly string[];
  readonly volume?: readonly string[];
  readonly until?: string;
  readonly tag?: readonly string[];
  readonly atEnd?: (typeof endActions)[number];
  readonly idle?: number;
  readonly idleAction?: (typeof endActions)[number];
  readonly recovery?: (typeof recoveries)[number];
};

async function readSite({ service }: Session, siteId: string, signal?: AbortSignal): Promise<Site> {
  const { body } = await service.call('GET', '/sites/:siteId', { siteId }, signal && { signal });
  return body;
}

export async function listSites(session: Session, asJson: boolean): Promise<void> {
  const rows = [];
  for await (const path of listPaths(session.client, `${session.core}/sites`)) {
    const { vm, image, numberOfJobs } = await readSite(session, idOf(path));
    rows.push({
      id: idOf(path),
      state: vm.state,
      jobs: numberOfJobs,
      image: `${image.name}:${image.version}`,
    });
  }
  printRows(rows, ['id', 'state', 'jobs', 'image'], asJson);
}

export async function showSite(session: Session, id: string): Promise<void> {
  printJson(await readSite(session, id));
}

/** An image by its name, or what it must have. */
export type Wanted = string | Readonly<Record<string, string>>;

/** Asks for a target system and waits until jobs can run there. @returns its id */
export async function createSite(
  session: Session,
  image: Wanted,
  options: NewSite,
  signal: AbortSignal,
): Promise<string> {
  const wish = wishOf(image, options);
  const waits = process.stderr.isTTY ? await waitsFor(session, wish) : [];
  const id = idOf(pathOf(await session.service.call('POST', '/sites', wish)));
  tell(
    `target system ${id} from ${typeof image === 'string' ? image : await imageOf(session, id)}`,
  );
  await waitForSite(session, id, waits, signal);
  return id;
}

/** What would be made. */
export async function planSite(
  session: Session,
  image: Wanted,
  options: NewSite,
  asJson: boolean,
): Promise<void> {
  const wish = { ...wishOf(image, options), dryRun: true };
  printPlan((await session.service.call('POST', '/sites', wish)).body, asJson);
}

function wishOf(image: Wanted, options: NewSite) {
  const { cpus, memory, disk, network, pinned, flavour, hostLabel = [], set = [] } = options;
  const { until, tag = [], volume = [] } = options;
  const parameters = {
    ...(cpus && { cpus }),
    ...(memory && { memoryMiB: memory }),
    ...(disk && { diskMiB: disk }),
    ...(network !== undefined && { network }),
    ...(pinned && { pinned }),
  };
  return {
    ...{ image, parameters, tags: [...tag] },
    ...endsOf(options),
    ...(flavour !== undefined && { flavour }),
    ...(hostLabel.length > 0 && { hostLabels: [...hostLabel] }),
    ...(set.length > 0 && { imageParameters: assignments('--set', set) }),
    ...(volume.length > 0 && { volumes: volume.map(volumeWish) }),
    ...(until !== undefined && { terminationTime: until }),
  };
}

function endsOf({ atEnd, idle, idleAction, recovery }: NewSite) {
  return {
    ...(atEnd !== undefined && { endAction: atEnd }),
    ...(idle !== undefined && { idleSeconds: idle }),
    ...(idleAction !== undefined && { idleAction }),
    ...(recovery !== undefined && { recovery }),
  };
}

async function imageOf(session: Session, id: string): Promise<string> {
  const { image } = await readSite(session, id);
  return image.why ?? image.name;
}

type Waits = z.output<typeof Plan>['expectedWait'];

/** How long such starts took, for who looks on. */
async function waitsFor(session: Session, wish: ReturnType<typeof wishOf>): Promise<Waits> {
  const { body } = await session.service.call('POST', '/sites', { ...wish, dryRun: true });
  return 'expectedWait' in body ? body.expectedWait : [];
}

async function waitForSite(
  session: Session,
  id: string,
  waits: Waits,
  signal: AbortSignal,
): Promise<void> {
  let told = '';
  const fromMs = performance.now();
  const read = async (): Promise<Site> => {
    const site = await readSite(session, id, signal);
    const mark = lastMark(site.vm.boot);
    const about = waits.find(({ tier }) => tier === site.start?.tier)?.p50Seconds;
    const isDrawn = redraw(`  ${drawStart(mark, (performance.now() - fromMs) / 1_000, about)}`);
    if (!isDrawn && mark !== told && site.resourceStatus === 'INITIALIZING') tell(`  ${mark}`);
    told = mark;
    return site;
  };
  const site = await pollUntil(
    read,
    ({ resourceStatus }) => resourceStatus !== 'INITIALIZING',
    signal,
  );
  redraw('');
  if (site.resourceStatus !== 'READY')
    throw new GridError('VM_NOT_READY', `target system ${id}: ${site.resourceStatusMessage}`);
  for (const line of drawTimeline(site.vm.boot)) tell(`  ${line}`);
}

export async function deleteSites(
  { client, core }: Session,
  ids: readonly string[],
  signal: AbortSignal,
): Promise<void> {
  for (const id of ids) {
    await deleteAndWait(client, `${core}/sites/${id}`, signal);
    tell(`target system ${id} is gone`);
  }
}

/** Returns when it is on disk. */
export async function freezeSite(session: Session, id: string, signal: AbortSignal): Promise<void> {
  await session.service.call('POST', '/sites/:siteId/actions/freeze', { siteId: id }, { signal });
  const site = await pollUntil(
    () => readSite(session, id, signal),
    ({ vm }) => vm.state !== 'PAUSED',
    signal,
  );
  if (site.vm.state !== 'SUSPENDED')
    throw new GridError('VM_NOT_READY', `target system ${id}: ${site.resourceStatusMessage}`);
  tell(`target system ${id} is parked on disk`);
}

/** Returns when jobs go on there. */
export async function thawSite(session: Session, id: string, signal: AbortSignal): Promise<void> {
  await session.service.call('POST', '/sites/:siteId/actions/thaw', { siteId: id }, { signal });
  await waitUntilBack(session, id, signal);
  tell(`target system ${id} is ready`);
}

/** Until jobs can run there again, of a machine that stood still. @throws `VM_NOT_READY` it stands still for good */
export async function waitUntilBack(
  session: Session,
  id: string,
  signal: AbortSignal,
): Promise<void> {
  const site = await pollUntil(
    () => readSite(session, id, signal),
    ({ vm }) => vm.undertaking === undefined && vm.state !== 'UNREACHABLE',
    signal,
  );
  if (site.resourceStatus !== 'READY' && site.vm.state !== 'SUSPENDED')
    throw new GridError('VM_NOT_READY', `target system ${id}: ${site.resourceStatusMessage}`);
}

/** @throws `BAD_REQUEST` naming the member that was refused */
export async function changeSite(
  { service }: Session,
  id: string,
  members: Readonly<Record<string, string | number>>,
): Promise<void> {
  const { body } = await service.call('PUT', '/sites/:siteId', { siteId: id, ...members });
  for (const name of Object.keys(members)) {
    const answer = body[name];
    if (answer !== 'OK') throw new GridError('BAD_REQUEST', `${name}: ${String(answer)}`);
  }
  tell(`target system ${id}: ${Object.values(members).join(' ')}`);
}
