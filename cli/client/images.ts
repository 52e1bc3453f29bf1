import { createReadStream } from 'node:fs';
import { readFile, stat } from 'node:fs/promises';
import { pipeline as chain } from 'node:stream';
import { parse } from 'yaml';
import { ImageMetadata, type ImageRecord, type PartName } from '#imagerepo/contract.js';
import { describeIssues } from '#kernel/config.js';
import { GridError } from '#kernel/errors.js';
import { printJson, printRows, tell } from './print.js';
import type { Session } from './profile.js';
import { withProgress } from './progress.js';
import { idOf, pathOf } from './resources.js';

export type ImageQuery = { readonly application?: string; readonly name?: string };
const pageSize = 100;

export async function listImages(
  { repository }: Session,
  { application, name }: ImageQuery,
  asJson: boolean,
): Promise<void> {
  const records: ImageRecord[] = [];
  for (let total = 1; records.length < total;) {
    const { body: page } = await repository.call('GET', '', {
      details: 'true',
      offset: records.length,
      num: pageSize,
      ...(application !== undefined && { application }),
      ...(name !== undefined && { name }),
    });
    records.push(...(page.records ?? []));
    total = page.records?.length ? page.total : 0;
  }
  if (asJson) {
    printJson(records);
    return;
  }
  const rows = records.map(({ id, state, metadata }) => ({
    id,
    name: `${metadata.name}:${metadata.version}`,
    state,
    format: metadata.format,
    applications: metadata.applications.map(({ Name }) => Name).join(','),
  }));
  printRows(rows, ['id', 'name', 'state', 'format', 'applications'], false);
}

export async function showImage({ repository }: Session, imageId: string): Promise<void> {
  printJson((await repository.call('GET', '/:imageId', { imageId })).body);
}

/**
 * Uploads an image and publishes it; after a failure nothing of it stays.
 * @param metadataFile YAML or JSON
 * @param parts `kernel=vmlinuz`, `initrd=initrd.lz4`
 * @returns its id
 */
export async function publishImage(
  { client, repository }: Session,
  metadataFile: string,
  parts: readonly string[],
  signal: AbortSignal,
): Promise<string> {
  // the repository refuses other names
  const files = parts.map((part) => part.split(/=(.*)/s, 2) as [PartName, string | undefined]);
  const metadata = ImageMetadata.safeParse(parse(await readFile(metadataFile, 'utf8')));
  if (!metadata.success)
    throw new GridError('IMAGE_INVALID', `${metadataFile}: ${describeIssues(metadata.error)}`);
  const imageId = idOf(pathOf(await repository.call('POST', '', metadata.data)));
  try {
    for (const [name, file = ''] of files) {
      const { size } = await stat(file);
      const source = chain(createReadStream(file), withProgress(name, size), () => undefined);
      const address = repository.address('/:imageId/parts/:part', { imageId, part: name });
      await client.upload('PUT', address, source, { sizeBytes: size, signal });
    }
    await repository.call('POST', '/:imageId/actions/publish', { imageId });
  } catch (error) {
    // the first failure is the one to tell
    await repository.call('DELETE', '/:imageId', { imageId }).catch(() => undefined);
    throw error;
  }
  return imageId;
}

export async function deleteImages({ repository }: Session, ids: readonly string[]): Promise<void> {
  for (const imageId of ids) {
    await repository.call('DELETE', '/:imageId', { imageId });
    tell(`image ${imageId} is gone`);
  }
}
