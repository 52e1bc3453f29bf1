import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { Readable } from 'node:stream';
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import { ImageList, imageRoutes, type ImageRecord, type PartName } from '#imagerepo/contract.js';
import { GridError } from '#kernel/errors.js';
import type { HttpClient } from '#kernel/http/client.js';
import { pathOf } from '../client/resources.js';
import type { BuiltImage } from '../image/build.js';
import type { Boot } from './timeline.js';

/** What a user does here, over the public interface only: a client that knows the gateway's address. */

const images = `/IMAGES${imageRoutes.images}`;
const core = '/VSITE/rest/core';
const pollMs = 20;
const timelineMs = 10_000;

const SiteProperties = z.object({
  resourceStatus: z.string(),
  resourceStatusMessage: z.string(),
  vm: z.object({ boot: z.record(z.string(), z.number()) }),
});
const JobProperties = z.object({
  status: z.string(),
  statusMessage: z.string(),
  exitCode: z.string().optional(),
  _links: z.record(z.string(), z.object({ href: z.string() })),
});

export type JobOutcome = {
  readonly url: string;
  readonly status: string;
  readonly exitCode: string;
  readonly stdout: string;
};

export class QuickstartError extends GridError<'INTERNAL'> {}

/** Publishes an image, unless the same is there already. @returns its id */
export async function publish(
  client: HttpClient,
  { metadata, parts }: BuiltImage,
): Promise<string> {
  const query = new URLSearchParams({ name: metadata.name, version: metadata.version });
  const found = await findImages(client, query);
  const published = found.find((image) => image.state === 'PUBLISHED');
  if (published) return published.id;
  const path = pathOf(await client.json('POST', images, metadata));
  try {
    for (const [name, file] of Object.entries(parts) as [PartName, string][]) {
      const { size } = await stat(file);
      await client.upload('PUT', `${path}/parts/${name}`, createReadStream(file), {
        sizeBytes: size,
      });
    }
    await client.json('POST', `${path}/actions/publish`, {});
  } catch (error) {
    await client.json('DELETE', path).catch(() => undefined); // the first failure is the one to tell
    throw error;
  }
  return path.slice(path.lastIndexOf('/') + 1);
}

/** The newest image of a format that provides an application. */
export async function findImage(
  client: HttpClient,
  application: string,
  format: string,
): Promise<ImageRecord> {
  const found = await findImages(client, new URLSearchParams({ application, format }));
  const [image] = found; // the newest first
  if (image) return image;
  throw new QuickstartError('INTERNAL', `no ${format} image provides ${application}`);
}

async function findImages(client: HttpClient, query: URLSearchParams): Promise<ImageRecord[]> {
  query.set('details', 'true');
  const { body } = await client.json('GET', `${images}?${query.toString()}`);
  return ImageList.parse(body).records ?? [];
}

/** Asks the factory for a target system. @returns its path */
export async function createTargetSystem(
  client: HttpClient,
  image: string,
  parameters: Readonly<Record<string, unknown>>,
): Promise<string> {
  const factory = `${core}/factories/default_target_system_factory`;
  return pathOf(await client.json('POST', factory, { image, parameters, tags: ['quickstart'] }));
}

/** Waits until a target system is ready. @throws {@link QuickstartError} with the server's reason */
export async function waitUntilReady(
  client: HttpClient,
  path: string,
  signal: AbortSignal,
  onProgress: (boot: Boot) => void,
): Promise<void> {
  for (;;) {
    const { resourceStatus, resourceStatusMessage, vm } = await readSite(client, path, signal);
    if (resourceStatus === 'READY') return;
    if (resourceStatus !== 'INITIALIZING')
      throw new QuickstartError('INTERNAL', `the target system failed: ${resourceStatusMessage}`);
    onProgress(vm.boot);
    await sleep(pollMs, undefined, { signal });
  }
}

/** The time line of a start; the guest tells its part soon after it is ready, or never. */
export async function readTimeline(
  client: HttpClient,
  path: string,
  signal: AbortSignal,
): Promise<Boot> {
  const deadline = performance.now() + timelineMs;
  for (;;) {
    const { vm } = await readSite(client, path, signal);
    if (vm.boot['agentMs'] !== undefined || performance.now() > deadline) return vm.boot;
    await sleep(pollMs, undefined, { signal });
  }
}

async function readSite(
  client: HttpClient,
  path: string,
  signal: AbortSignal,
): Promise<z.output<typeof SiteProperties>> {
  return SiteProperties.parse((await client.json('GET', path, undefined, { signal })).body);
}

/** Submits the application with one input file, waits, and reads what it wrote. */
export async function runJob(
  client: HttpClient,
  site: string,
  application: string,
  input: string,
  signal: AbortSignal,
): Promise<JobOutcome> {
  const submitted = await client.json('POST', site, {
    ApplicationName: application,
    Parameters: { INPUT: 'input.txt' },
    haveClientStageIn: 'true',
  });
  const path = pathOf(submitted);
  const directory = new URL(link(await readJob(client, path, signal), 'workingDirectory')).pathname;
  await waitForDirectory(client, directory, signal);
  await client.upload('PUT', `${directory}/files/input.txt`, Readable.from([Buffer.from(input)]));
  await client.json('POST', `${path}/actions/start`, {});
  for (;;) {
    const job = await readJob(client, path, signal);
    if (job.status === 'SUCCESSFUL' || job.status === 'FAILED') {
      if (job.status === 'FAILED')
        throw new QuickstartError('INTERNAL', `the job failed: ${job.statusMessage}`);
      const { body } = await client.download(`${directory}/files/stdout`);
      return {
        url: path,
        status: job.status,
        exitCode: job.exitCode ?? '',
        stdout: await text(body),
      };
    }
    await sleep(pollMs, undefined, { signal });
  }
}

async function readJob(
  client: HttpClient,
  path: string,
  signal: AbortSignal,
): Promise<z.output<typeof JobProperties>> {
  return JobProperties.parse((await client.json('GET', path, undefined, { signal })).body);
}

async function waitForDirectory(
  client: HttpClient,
  path: string,
  signal: AbortSignal,
): Promise<void> {
  const Status = z.object({ resourceStatus: z.string() });
  for (;;) {
    const { body } = await client.json('GET', `${path}?fields=resourceStatus`, undefined, {
      signal,
    });
    if (Status.parse(body).resourceStatus === 'READY') return;
    await sleep(pollMs, undefined, { signal });
  }
}

function link(job: z.output<typeof JobProperties>, rel: string): string {
  const found = job._links[rel];
  if (found) return found.href;
  throw new QuickstartError('INTERNAL', `the job has no link ${rel}`);
}
