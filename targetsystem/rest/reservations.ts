import { z } from 'zod';
import { answersCreated, answersJson, answersNothing } from '#kernel/http/answers.js';
import { fieldsParameter, selectFields } from '#kernel/http/fields.js';
import { everybody, operations, RequestError, type Context } from '#kernel/http/operation.js';
import { created, json, noContent } from '#kernel/http/reply.js';
import { isOwner } from '#kernel/security/acl.js';
import { GridError } from '#kernel/errors.js';
import type { TargetSystem } from '#xnjs/index.js';
import {
  Changes,
  type Rendered,
  Reservation,
  ReservationDetails,
  ReservationList,
} from './answers.js';
import { machineErrors } from './answers-errors.js';
import { changeMembers } from './changes.js';
import type { RestDeps } from './deps.js';
import { hrefs, linksFrom } from './links.js';
import { isListed, listFilter, listParameters, renderList, selectPage } from './lists.js';
import { knownUsers, onReservation, reservationInput as input } from './policy.js';
import { dateText, ownedMembers, ownedProperties, tagList } from './properties.js';
import { canReserve } from './sites-rendering.js';

const operation = operations<RestDeps>();

const listReservations = operation({
  method: 'GET',
  path: '/reservations',
  summary:
    'The reservations that the caller may see; all of them for an administrator with filter=all',
  input: z.object({ ...listParameters(), filter: listFilter }),
  answers: answersJson(ReservationList),
  id: 'listReservations',
  tag: 'reservations',
  policy: everybody,
  run: ({ reservations }, wish, { caller, baseUrl, url }) => {
    const visible = reservations.list().filter((each) => isListed(each, caller, wish.filter));
    const { found, total } = selectPage(visible, wish);
    const links = linksFrom(baseUrl);
    return renderList(
      url,
      wish,
      found.map(({ id }) => links.reservation(id)),
      total,
    );
  },
});

const createReservation = operation({
  method: 'POST',
  path: '/reservations',
  summary: 'Reserves nodes of a batch system for a time to come',
  input: z.object({
    Resources: z.record(z.string().max(256), z.unknown()).default({}),
    'Start time': dateText,
    /** Ours: address or id of the target system whose batch system is meant. */
    targetSystem: z.string().max(512).optional(),
    tags: tagList.default([]),
  }),
  body: 'json',
  answers: answersCreated,
  errors: [...machineErrors, 'NOT_FOUND', 'JOB_INVALID', 'JOB_LIMIT'],
  id: 'createReservation',
  tag: 'reservations',
  policy: knownUsers,
  run: async (deps, { Resources: resources, targetSystem, tags, ...times }, context) => {
    const { caller, baseUrl } = context;
    const target = chooseTarget(deps, targetSystem, context);
    const { id } = await deps.reservations.create({
      ownerDn: caller.dn,
      targetId: target.id,
      resources,
      startMs: times['Start time'],
      tags,
    });
    return created(linksFrom(baseUrl).reservation(id));
  },
});

/** The one that is named, else the newest of the caller's that has such a batch system. */
function chooseTarget(
  { systems }: RestDeps,
  named: string | undefined,
  { caller }: Context,
): TargetSystem {
  if (named === undefined) {
    const found = systems.list({ ownerDn: caller.dn }).find(canReserve);
    if (found) return found;
    const text = 'none of your target systems has a batch system that makes reservations';
    throw new GridError('CONFLICT', text);
  }
  const target = systems.get(named.split('/').at(-1) ?? '');
  if (!isOwner(target, caller)) throw new RequestError('FORBIDDEN', 'targetSystem: is not yours');
  return target;
}

const getReservation = operation({
  method: 'GET',
  path: '/reservations/:reservationId',
  summary: 'One reservation, and what its batch system says of it',
  input: z.object({ ...input, fields: fieldsParameter }),
  answers: answersJson(Reservation),
  id: 'getReservation',
  tag: 'reservations',
  policy: onReservation.read,
  run: async ({ reservations }, { reservationId, fields }, { baseUrl }) => {
    const links = linksFrom(baseUrl);
    const record = reservations.get(reservationId);
    const told = await reservations.status(reservationId);
    const self = links.reservation(reservationId);
    const properties = {
      ...ownedProperties(record),
      status: told.state,
      statusMessage: told.text ?? '',
      reservationID: record.reference ?? 'N/A',
      resources: record.resources,
      startTime: told.start ?? record.request.start,
      _links: hrefs({ self, details: `${self}/details`, parentTSS: links.site(record.targetId) }),
    } satisfies Rendered<typeof Reservation>;
    return json(selectFields(properties, fields));
  },
});

const getReservationDetails = operation({
  method: 'GET',
  path: '/reservations/:reservationId/details',
  summary: 'All that the batch system says of a reservation',
  input: z.object({ ...input, fields: fieldsParameter }),
  answers: answersJson(ReservationDetails),
  id: 'getReservationDetails',
  tag: 'reservations',
  policy: onReservation.read,
  run: async ({ reservations }, { reservationId, fields }) => {
    const { state, start, text = 'N/A' } = await reservations.status(reservationId);
    const details = { status: state, start, rawDetailsData: text };
    return json(selectFields(details satisfies Rendered<typeof ReservationDetails>, fields));
  },
});

const changeReservation = operation({
  method: 'PUT',
  path: '/reservations/:reservationId',
  summary: 'Changes tags, ACL or termination time',
  input: z.looseObject(input),
  body: 'json',
  answers: answersJson(Changes),
  id: 'changeReservation',
  tag: 'reservations',
  policy: onReservation.modify,
  run: async ({ reservations }, { reservationId, ...members }, { caller }) =>
    json(
      await changeMembers(
        members,
        ownedMembers(isOwner(reservations.get(reservationId), caller)),
        (change) => reservations.update(reservationId, change),
      ),
    ),
});

const deleteReservation = operation({
  method: 'DELETE',
  path: '/reservations/:reservationId',
  summary: 'Cancels a reservation',
  input: z.object(input),
  answers: answersNothing,
  errors: machineErrors,
  id: 'deleteReservation',
  tag: 'reservations',
  policy: onReservation.own,
  run: async ({ reservations }, { reservationId }) => {
    await reservations.cancel(reservationId);
    return noContent();
  },
});

export const reservationOperations = [
  listReservations,
  createReservation,
  getReservation,
  getReservationDetails,
  changeReservation,
  deleteReservation,
];
