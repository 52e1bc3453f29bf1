import { formatDate } from '#kernel/clock.js';
import type { Caller } from '#kernel/http/caller.js';
import type { Change } from '#kernel/persistence/change-feed.js';
import { findGrant, isOwner } from '#kernel/security/acl.js';
import {
  toResourceStatus,
  type JobChange,
  type LoggedImage,
  type SiteChange,
} from '#xnjs/index.js';
import type { Links } from './links.js';

export const eventTypes = ['job', 'site', 'image'] as const;
export type EventType = (typeof eventTypes)[number];

export type Viewer = {
  readonly caller: Caller;
  /** The ACL that a job or target system has now; `undefined`: it is gone. */
  readonly aclOf: (type: 'job' | 'site', id: string) => Promise<readonly string[] | undefined>;
  readonly types: readonly EventType[];
  readonly links: Links;
  /** The list of images. */
  readonly images: string;
};

/** One event of a stream, ready to be sent; without data it only moves the client's position. */
export function sseEvent(event: string, data: object, id?: number): string {
  const position = id === undefined ? '' : `id: ${id}\n`;
  return `${position}event: ${event}\ndata: ${JSON.stringify(data)}\n\n`;
}

/** @returns `undefined` for what the viewer has not asked for, or may not see */
export async function renderChange(change: Change, viewer: Viewer): Promise<string | undefined> {
  const { type, seq, subject: id, atMs, body } = change;
  if (type === 'lost') {
    const { types } = body as { types: EventType[] };
    if (!types.some((each) => viewer.types.includes(each))) return undefined;
    return sseEvent('reset', { types, reason: 'some changes were not heard of' }, seq);
  }
  const wanted = viewer.types.find((each) => each === type);
  if (!wanted || !(await maySee(change, wanted, viewer))) return undefined;
  const told = renderers[wanted](change, viewer);
  if (!told) return undefined;
  return sseEvent(type, { type, id, time: formatDate(atMs), ...told }, seq);
}

/** What was granted then and is granted still; of what is gone nobody can ask any more. */
async function maySee(change: Change, type: EventType, viewer: Viewer): Promise<boolean> {
  const { subject, ownerDn, body } = change;
  const { caller, aclOf } = viewer;
  if (type === 'image' || isOwner({ ownerDn }, caller)) return true;
  const { change: what, acl = [] } = body as JobChange | SiteChange; // by their stores
  if (findGrant(acl, caller, 'read') === undefined) return false;
  if (what === 'deleted') return true;
  const now = await aclOf(type, subject);
  return now !== undefined && findGrant(now, caller, 'read') !== undefined;
}

const renderers: Record<EventType, (change: Change, viewer: Viewer) => object | undefined> = {
  job({ subject, body }, viewer) {
    const { change, name, status, targetId, parentId, ...rest } = body as JobChange; // by the job store
    return {
      ...{ change, name, status, statusMessage: rest.statusMessage, exitCode: rest.exitCode },
      href: viewer.links.job(subject),
      site: viewer.links.site(targetId),
      ...(parentId !== undefined && { parent: viewer.links.job(parentId) }),
    };
  },
  site({ subject, body }, viewer) {
    const { change, state, usable, evidence, image, start } = body as SiteChange; // by the target systems
    const { source, fact, atMs } = evidence;
    return {
      ...{ change, state, resourceStatus: toResourceStatus(state, usable ?? state === 'READY') },
      evidence: { source, fact, at: formatDate(atMs) },
      ...{ image, start, href: viewer.links.site(subject) },
    };
  },
  image({ subject, ownerDn, body }, viewer) {
    const { change, isPublic, wasPublic, ...facts } = body as LoggedImage; // by the image follower
    const href = `${viewer.images}/${subject}`;
    if (isOwner({ ownerDn }, viewer.caller)) return { change, ...facts, href };
    // to the others an image begins and ends with being public
    if (!isPublic && !wasPublic) return undefined;
    const seen = !isPublic ? 'removed' : !wasPublic ? 'published' : change;
    return { change: seen, ...facts, href };
  },
};
