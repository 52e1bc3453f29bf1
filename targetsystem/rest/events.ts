import { z } from 'zod';
import { asGridError } from '#kernel/errors.js';
import { listParameter } from '#kernel/http/fields.js';
import { operations, RequestError } from '#kernel/http/operation.js';
import { stream } from '#kernel/http/reply.js';
import { hasRole } from '#kernel/security/policy.js';
import type { JobEngine, TargetSystems } from '#xnjs/index.js';
import type { EventStreams } from './event-streams.js';
import { eventTypes, type Viewer } from './events-rendering.js';
import { linksFrom } from './links.js';
import { permissionOf } from './permission.js';

export type EventsDeps = {
  readonly events: EventStreams;
  readonly jobs: Pick<JobEngine, 'get'>;
  readonly systems: Pick<TargetSystems, 'get'>;
  readonly imagesUrl: (baseUrl: string) => string;
};
const operation = operations<EventsDeps>();
const path = '/events';
const policy = hasRole('user', 'admin');
const type = 'text/event-stream';
const EventText = z
  .string()
  .describe(
    'Lines of fields, an empty line after each event: `event` (job, site, image, reset), `id` (a number, ' +
      'for Last-Event-ID or since) and `data`, one line of JSON with type, id, time, href and what is new ' +
      'of the resource; of reset, with types and reason: read the lists again. Lines that begin with a ' +
      'colon are heart-beats. The stream goes on until client or server end it.',
  );

/** Ours: the original has notifications only (unicore-rest 3.7). */
const getEvents = operation({
  method: 'GET',
  path,
  summary:
    'What becomes of jobs, target systems and images that the caller may read, as it happens',
  input: z.object({
    types: listParameter.optional(),
    since: z
      .string()
      .regex(/^\d{1,16}$/, 'must be the id of an event')
      .optional(),
  }),
  policy,
  produces: [type],
  answers: { 200: { text: EventText, types: [type] } },
  errors: ['LIMIT_REACHED', 'SITE_UNAVAILABLE'],
  id: 'getEvents',
  tag: 'events',
  run: async (deps, input, context) => {
    const { events, imagesUrl, ...resources } = deps;
    const { caller, baseUrl, headers, log } = context;
    const { types = eventTypes } = input;
    const unknown = types.find((name) => !eventTypes.some((each) => each === name));
    if (unknown !== undefined)
      throw new RequestError(
        'BAD_REQUEST',
        `types: ${unknown}: must be of ${eventTypes.join(', ')}`,
      );
    const viewer = {
      ...{ caller, images: imagesUrl(baseUrl), aclOf: aclsOf(resources) },
      links: linksFrom(baseUrl),
      types: eventTypes.filter((name) => types.includes(name)),
    };
    const permission = permissionOf(policy, `GET ${path}`, { deps, input, context });
    const since = positionOf(headers['last-event-id'], input.since);
    const source = await events.open(viewer, since, { log, permission });
    return stream(source, {
      headers: { 'content-type': type, 'cache-control': 'no-store', 'x-accel-buffering': 'no' },
    });
  },
});

/** As they are now, not as they were when a change was logged. */
function aclsOf({ jobs, systems }: Pick<EventsDeps, 'jobs' | 'systems'>): Viewer['aclOf'] {
  return async (type, id) => {
    try {
      const { acl = [] } = type === 'job' ? await jobs.get(id) : systems.get(id);
      return acl;
    } catch (error) {
      const code = asGridError(error)?.code;
      if (code === 'JOB_UNKNOWN' || code === 'NOT_FOUND') return undefined;
      throw error;
    }
  };
}

/** The header wins: clients that come again repeat the query. One that is none of ours is too old. */
function positionOf(header: string | string[] | undefined, since?: string): number | undefined {
  const text = typeof header === 'string' && header !== '' ? header : since;
  if (text === undefined) return undefined;
  return /^\d{1,16}$/.test(text) ? Number(text) : 0;
}

export const eventOperations = [getEvents];
