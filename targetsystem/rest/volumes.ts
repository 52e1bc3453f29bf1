import { z } from 'zod';
import { formatDate } from '#kernel/clock.js';
import { answersCreated } from '#kernel/http/answers.js';
import { operations, RequestError } from '#kernel/http/operation.js';
import { created } from '#kernel/http/reply.js';
import { volumeName, volumeSizeMiB, type Volume } from '#xnjs/index.js';
import { recordErrors, Volume as VolumeAnswer, VolumeList } from './answers-data.js';
import type { RenderedBeside } from './answers.js';
import type { RestDeps } from './deps.js';
import { hrefs, linksFrom } from './links.js';
import { ownedOperations, type OwnedKind, type OwnedService } from './owned-resource.js';
import { requesterOf } from './placement.js';
import { users } from './policy.js';
import { dateText, tagList } from './properties.js';

const operation = operations<RestDeps>();

function volumesOf({ systems }: RestDeps): NonNullable<RestDeps['systems']['volumes']> {
  if (systems.volumes) return systems.volumes;
  throw new RequestError('NOT_FOUND', 'there are no volumes on this site');
}

const volumes: OwnedKind<Volume> = {
  collection: 'volumes',
  noun: 'volume',
  name: 'Volume',
  answers: { one: VolumeAnswer, list: VolumeList },
  service: (deps): OwnedService<Volume> => volumesOf(deps),
  render: (
    { id, name, sizeMiB, attachedTo, createdMs },
    { baseUrl },
  ): RenderedBeside<typeof VolumeAnswer> => {
    const links = linksFrom(baseUrl);
    return {
      ...{ name, sizeMiB, state: attachedTo === undefined ? 'AVAILABLE' : 'IN_USE' },
      creationTime: formatDate(createdMs),
      _links: hrefs({
        self: links.resource('volumes', id),
        ...(attachedTo !== undefined && { site: links.site(attachedTo) }),
      }),
    };
  },
};

const createVolume = operation({
  method: 'POST',
  path: '/volumes',
  summary: 'Makes a volume that target systems can have, one at a time',
  input: z.object({
    name: volumeName,
    sizeMiB: volumeSizeMiB,
    tags: tagList.default([]),
    terminationTime: dateText.optional(),
  }),
  body: 'json',
  answers: answersCreated,
  errors: [...recordErrors, 'CONFLICT', 'QUOTA_EXCEEDED'],
  id: 'createVolume',
  policy: users,
  run: async (deps, { name, sizeMiB, tags, terminationTime }, { caller, baseUrl }) => {
    const countsFor = deps.systems.planner.countsFor(requesterOf(caller));
    const wish = { ownerDn: caller.dn, name, sizeMiB, tags, countsFor };
    const { id } = await volumesOf(deps).create({ ...wish, terminationMs: terminationTime });
    return created(linksFrom(baseUrl).resource('volumes', id));
  },
});

export const volumeOperations = [createVolume, ...ownedOperations(volumes)];
