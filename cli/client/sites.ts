import { z } from 'zod';
import { GridError } from '#kernel/errors.js';
import { drawTimeline, lastMark } from '../quickstart/timeline.js';
import { printJson, printRows, tell } from './print.js';
import type { Session } from './profile.js';
import { deleteAndWait, idOf, listPaths, pathOf, pollUntil } from './resources.js';

const factory = 'factories/default_target_system_factory';

const Site = z.object({
  resourceStatus: z.string(),
  resourceStatusMessage: z.string().default(''),
  numberOfJobs: z.number().default(0),
  applications: z.array(z.string()).default([]),
  image: z.object({ name: z.string(), version: z.string() }).optional(),
  vm: z.object({ state: z.string(), boot: z.record(z.string(), z.number()) }).optional(),
});
type Site = z.output<typeof Site>;

export type NewSite = {
  readonly cpus?: number;
  readonly memory?: number;
  readonly until?: string;
  readonly tag?: readonly string[];
};

async function readSite(
  { client, core }: Session,
  id: string,
  signal?: AbortSignal,
): Promise<Site> {
  const options = signal && { signal };
  return Site.parse((await client.json('GET', `${core}/sites/${id}`, undefined, options)).body);
}

export async function listSites(session: Session, asJson: boolean): Promise<void> {
  const rows = [];
  for await (const path of listPaths(session.client, `${session.core}/sites`)) {
    const { vm, image, resourceStatus, numberOfJobs } = await readSite(session, idOf(path));
    rows.push({
      id: idOf(path),
      state: vm?.state ?? resourceStatus,
      jobs: numberOfJobs,
      image: image && `${image.name}:${image.version}`,
    });
  }
  printRows(rows, ['id', 'state', 'jobs', 'image'], asJson);
}

export async function showSite({ client, core }: Session, id: string): Promise<void> {
  printJson((await client.json('GET', `${core}/sites/${id}`)).body);
}

/** Asks for a target system and waits until jobs can run there. @returns its id */
export async function createSite(
  session: Session,
  image: string,
  { cpus, memory, until, tag = [] }: NewSite,
  signal: AbortSignal,
): Promise<string> {
  const { client, core } = session;
  const wish = {
    image,
    parameters: { ...(cpus && { cpus }), ...(memory && { memoryMiB: memory }) },
    ...(until !== undefined && { terminationTime: until }),
    tags: tag,
  };
  const id = idOf(pathOf(await client.json('POST', `${core}/${factory}`, wish)));
  tell(`target system ${id} from ${image}`);
  await waitForSite(session, id, signal);
  return id;
}

async function waitForSite(session: Session, id: string, signal: AbortSignal): Promise<void> {
  let told = '';
  const read = async (): Promise<Site> => {
    const site = await readSite(session, id, signal);
    const mark = lastMark(site.vm?.boot ?? {});
    if (mark !== told && site.resourceStatus === 'INITIALIZING') tell(`  ${mark}`);
    told = mark;
    return site;
  };
  const site = await pollUntil(
    read,
    ({ resourceStatus }) => resourceStatus !== 'INITIALIZING',
    signal,
  );
  if (site.resourceStatus !== 'READY')
    throw new GridError('VM_NOT_READY', `target system ${id}: ${site.resourceStatusMessage}`);
  for (const line of drawTimeline(site.vm?.boot ?? {})) tell(`  ${line}`);
}

/** The end of what the machine wrote to its console. */
export async function showConsole({ client, core }: Session, id: string): Promise<void> {
  const headers = { accept: 'text/plain' };
  const { body } = await client.download(`${core}/sites/${id}/console`, { headers });
  for await (const chunk of body as AsyncIterable<Buffer>) process.stdout.write(chunk);
  process.stdout.write('\n');
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
