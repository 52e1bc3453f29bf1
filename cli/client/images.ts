import { createReadStream } from 'node:fs';
import { readFile, stat } from 'node:fs/promises';
import { pipeline as chain } from 'node:stream';
import { parse } from 'yaml';
import { ImageList, ImageMetadata, ImageRecord } from '#imagerepo/contract.js';
import { describeIssues } from '#kernel/config.js';
import { GridError } from '#kernel/errors.js';
import { printJson, printRows, tell } from './print.js';
import type { Session } from './profile.js';
import { withProgress } from './progress.js';
import { idOf, pathOf } from './resources.js';

export type ImageQuery = { readonly application?: string; readonly name?: string };
const pageSize = 100;

export async function listImages(
  { client, images }: Session,
  { application, name }: ImageQuery,
  asJson: boolean,
): Promise<void> {
  const records: ImageRecord[] = [];
  for (let total = 1; records.length < total;) {
    const query = new URLSearchParams({
      details: 'true',
      offset: `${records.length}`,
      num: `${pageSize}`,
      ...(application !== undefined && { application }),
      ...(name !== undefined && { name }),
    });
    const { body } = await client.json('GET', `${images}?${query.toString()}`);
    const page = ImageList.parse(body);
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

export async function showImage({ client, images }: Session, id: string): Promise<void> {
  printJson(ImageRecord.parse((await client.json('GET', `${images}/${id}`)).body));
}

/**
 * Uploads an image and publishes it; after a failure nothing of it stays.
 * @param metadataFile YAML or JSON
 * @param parts `kernel=vmlinuz`, `initrd=initrd.lz4`
 * @returns its id
 */
export async function publishImage(
  { client, images }: Session,
  metadataFile: string,
  parts: readonly string[],
  signal: AbortSignal,
): Promise<string> {
  const files = parts.map((part) => part.split(/=(.*)/s, 2) as [string, string | undefined]);
  const metadata = ImageMetadata.safeParse(parse(await readFile(metadataFile, 'utf8')));
  if (!metadata.success)
    throw new GridError('IMAGE_INVALID', `${metadataFile}: ${describeIssues(metadata.error)}`);
  const path = pathOf(await client.json('POST', images, metadata.data));
  try {
    for (const [name, file = ''] of files) {
      const { size } = await stat(file);
      const source = chain(createReadStream(file), withProgress(name, size), () => undefined);
      await client.upload('PUT', `${path}/parts/${name}`, source, { sizeBytes: size, signal });
    }
    await client.json('POST', `${path}/actions/publish`, {});
  } catch (error) {
    await client.json('DELETE', path).catch(() => undefined); // the first failure is the one to tell
    throw error;
  }
  return idOf(path);
}

export async function deleteImages(
  { client, images }: Session,
  ids: readonly string[],
): Promise<void> {
  for (const id of ids) {
    await client.json('DELETE', `${images}/${id}`);
    tell(`image ${id} is gone`);
  }
}
