import type { z } from 'zod';
import type { Snapshot as SnapshotAnswer } from '#targetsystem/rest/answers-snapshots.js';
import { Task } from '#targetsystem/rest/answers-data.js';
import { GridError } from '#kernel/errors.js';
import { printRows, tell } from './print.js';
import type { Session } from './profile.js';
import { idOf, pathOf, pollUntil } from './resources.js';
import { waitUntilBack } from './sites.js';

type Snapshot = z.output<typeof SnapshotAnswer>;

async function readSnapshot(
  { service }: Session,
  siteId: string,
  snapshotId: string,
): Promise<Snapshot> {
  const path = '/sites/:siteId/snapshots/:snapshotId';
  return (await service.call('GET', path, { siteId, snapshotId })).body;
}

/** Returns when it is complete, and its machine goes on. @returns its id */
export async function takeSnapshot(
  session: Session,
  siteId: string,
  name: string | undefined,
  signal: AbortSignal,
): Promise<string> {
  const wish = { siteId, ...(name !== undefined && { name }) };
  const answer = await session.service.call('POST', '/sites/:siteId/snapshots', wish, { signal });
  const id = idOf(pathOf(answer));
  const taken = await pollUntil(
    () => readSnapshot(session, siteId, id),
    ({ state }) => state !== 'TAKING',
    signal,
  );
  if (taken.state !== 'READY')
    throw new GridError('VM_NOT_READY', `no snapshot was taken: ${taken.stateMessage ?? ''}`);
  tell(`snapshot ${id} of target system ${siteId}: ${taken.sizeMiB} MiB`);
  return id;
}

export async function listSnapshots(
  session: Session,
  siteId: string,
  asJson: boolean,
): Promise<void> {
  const { body } = await session.service.call('GET', '/sites/:siteId/snapshots', { siteId });
  const rows = [];
  for (const url of body.snapshots) {
    const id = idOf(new URL(url).pathname);
    const { name, state, takenTime = '', sizeMiB } = await readSnapshot(session, siteId, id);
    rows.push({ id, name, state, taken: takenTime, MiB: sizeMiB });
  }
  printRows(rows, ['id', 'name', 'state', 'taken', 'MiB'], asJson);
}

/** Returns when jobs can run there again, or when it is parked as before. */
export async function revertSite(
  session: Session,
  siteId: string,
  snapshotId: string,
  signal: AbortSignal,
): Promise<void> {
  const path = '/sites/:siteId/snapshots/:snapshotId/actions/revert';
  await session.service.call('POST', path, { siteId, snapshotId }, { signal });
  await waitUntilBack(session, siteId, signal);
  tell(`target system ${siteId} is what it was`);
}

export async function deleteSnapshots(
  { service }: Session,
  siteId: string,
  ids: readonly string[],
): Promise<void> {
  for (const snapshotId of ids) {
    await service.call('DELETE', '/sites/:siteId/snapshots/:snapshotId', { siteId, snapshotId });
    tell(`snapshot ${snapshotId} is forgotten`);
  }
}

export type NewImageOptions = {
  readonly name?: string;
  readonly description?: string;
  readonly public?: true;
  readonly snapshot?: string;
};

/** Returns when the image can be used. @returns its id */
export async function saveImage(
  session: Session,
  siteId: string,
  version: string,
  { name, description, public: isPublic, snapshot }: NewImageOptions,
  signal: AbortSignal,
): Promise<string> {
  const { client, service } = session;
  const wish = {
    ...{ siteId, version, visibility: isPublic ? ('public' as const) : ('private' as const) },
    ...(name !== undefined && { name }),
    ...(description !== undefined && { description }),
    ...(snapshot !== undefined && { snapshot }),
  };
  const { body } = await service.call('POST', '/sites/:siteId/actions/save-image', wish, {
    signal,
  });
  const task = new URL(body.taskHref).pathname;
  let told = '';
  const { result, statusMessage } = await pollUntil(
    async () => {
      const found = Task.parse((await client.json('GET', task)).body);
      if (found.statusMessage !== told && found.statusMessage !== '')
        tell(`  ${found.statusMessage}`);
      told = found.statusMessage;
      return found;
    },
    ({ status }) => status !== 'CREATED' && status !== 'RUNNING',
    signal,
  );
  const { imageId } = result;
  if (imageId === undefined)
    throw new GridError('PEER_FAILED', `no image was made: ${statusMessage}`);
  tell(`image ${imageId}`);
  return imageId;
}
