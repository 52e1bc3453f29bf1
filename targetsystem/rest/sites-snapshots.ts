import { z } from 'zod';
import { formatDate } from '#kernel/clock.js';
import { answersCreated, answersJson, answersNothing } from '#kernel/http/answers.js';
import { operations } from '#kernel/http/operation.js';
import { created, json, noContent } from '#kernel/http/reply.js';
import { newImage, principalOf, type Snapshot } from '#xnjs/index.js';
import { type Rendered } from './answers.js';
import { machineErrors } from './answers-errors.js';
import { recordErrors, TaskBegun } from './answers-data.js';
import { Snapshot as SnapshotAnswer, SnapshotList } from './answers-snapshots.js';
import type { RestDeps } from './deps.js';
import { hrefs, linksFrom } from './links.js';
import { onSite, siteInput } from './policy.js';

const operation = operations<RestDeps>();
const snapshotInput = { ...siteInput, snapshotId: z.string().max(64) };
const stateErrors = [...machineErrors, 'VM_ILLEGAL_EVENT'] as const;

function render(
  { name, state, message, createdMs, atMs, sizeMiB, isDiskOnly }: Snapshot,
  self: string,
  site: string,
): Rendered<typeof SnapshotAnswer> {
  return {
    name,
    // one that is being removed is not found any more
    state: state === 'REMOVING' ? 'FAILED' : state,
    ...(message !== undefined && { stateMessage: message }),
    submissionTime: formatDate(createdMs),
    ...(atMs !== undefined && { takenTime: formatDate(atMs) }),
    ...(isDiskOnly && { diskOnly: true }),
    sizeMiB,
    _links: hrefs({ self, site, 'action:revert': `${self}/actions/revert` }),
  };
}

const takeSnapshot = operation({
  method: 'POST',
  path: '/sites/:siteId/snapshots',
  summary:
    'Keeps a machine as it is now, memory and disk; it stands still meanwhile, and its jobs go on then',
  input: z.object({ ...siteInput, name: z.string().trim().min(1).max(80).optional() }),
  body: 'json',
  answers: answersCreated,
  errors: [...stateErrors, 'LIMIT_REACHED', 'QUOTA_EXCEEDED', 'STORAGE_FULL'],
  id: 'takeSnapshot',
  policy: onSite.own,
  run: async ({ systems, clock }, { siteId, name }, { baseUrl }) => {
    const { id } = await systems.snapshots.take(siteId, name ?? formatDate(clock.now()));
    return created(linksFrom(baseUrl).snapshot(siteId, id));
  },
});

const listSnapshots = operation({
  method: 'GET',
  path: '/sites/:siteId/snapshots',
  summary: 'What is kept of a machine, the oldest first',
  input: z.object(siteInput),
  answers: answersJson(SnapshotList),
  id: 'listSnapshots',
  policy: onSite.read,
  run: ({ systems }, { siteId }, { baseUrl }) =>
    json({
      snapshots: systems.snapshots
        .list(siteId)
        .filter(({ state }) => state !== 'REMOVING')
        .map(({ id }) => linksFrom(baseUrl).snapshot(siteId, id)),
    }),
});

const getSnapshot = operation({
  method: 'GET',
  path: '/sites/:siteId/snapshots/:snapshotId',
  summary: 'One snapshot: from when it is, and whether it is complete',
  input: z.object(snapshotInput),
  answers: answersJson(SnapshotAnswer),
  id: 'getSnapshot',
  policy: onSite.read,
  run: ({ systems }, { siteId, snapshotId }, { baseUrl }) => {
    const links = linksFrom(baseUrl);
    const snapshot = systems.snapshots.get(siteId, snapshotId);
    return json(render(snapshot, links.snapshot(siteId, snapshotId), links.site(siteId)));
  },
});

const deleteSnapshot = operation({
  method: 'DELETE',
  path: '/sites/:siteId/snapshots/:snapshotId',
  summary: 'Forgets a snapshot and frees its room',
  input: z.object(snapshotInput),
  answers: answersNothing,
  errors: ['CONFLICT'],
  id: 'deleteSnapshot',
  policy: onSite.own,
  run: async ({ systems }, { siteId, snapshotId }) => {
    await systems.snapshots.remove(siteId, snapshotId);
    return noContent();
  },
});

const revertSite = operation({
  method: 'POST',
  path: '/sites/:siteId/snapshots/:snapshotId/actions/revert',
  summary:
    'Puts a machine back to what it was; what it did since is lost, and jobs that began since fail',
  input: z.object(snapshotInput),
  answers: answersNothing,
  errors: [...stateErrors, 'QUOTA_EXCEEDED'],
  id: 'revertSite',
  policy: onSite.own,
  run: async ({ systems }, { siteId, snapshotId }) => {
    await systems.snapshots.revert(siteId, snapshotId);
    return noContent();
  },
});

const saveImage = operation({
  method: 'POST',
  path: '/sites/:siteId/actions/save-image',
  summary:
    'Starts a task that publishes the disk of a machine as a new image of the caller, private unless said otherwise',
  input: z.object({ ...siteInput, ...newImage.shape }),
  body: 'json',
  answers: answersJson(TaskBegun),
  errors: [...recordErrors, 'VM_ILLEGAL_EVENT', 'IMAGE_UNKNOWN', 'FORBIDDEN'],
  id: 'saveSiteAsImage',
  policy: onSite.own,
  run: async ({ data, savedImages }, { siteId, ...image }, { caller, baseUrl }) => {
    await savedImages.check(siteId, image, caller.dn);
    const links = linksFrom(baseUrl);
    const { id } = await data.tasks.create({
      principal: principalOf(caller),
      serviceUrl: links.site(siteId),
      work: { do: 'saveImage', siteId, image },
    });
    return json({ status: 'OK', taskHref: links.resource('tasks', id) });
  },
});

/** Before those of target systems, whose addresses are wider. */
export const snapshotOperations = [
  takeSnapshot,
  listSnapshots,
  getSnapshot,
  deleteSnapshot,
  revertSite,
  saveImage,
];
