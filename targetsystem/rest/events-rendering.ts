import { formatDate } from '#kernel/clock.js';
import type { Caller } from '#kernel/http/caller.js';
import type { Change } from '#kernel/persistence/change-feed.js';
import { equalDns } from '#kernel/security/dn.js';
import type { JobChange, LoggedImage, SiteChange } from '#xnjs/index.js';
import type { Links } from './links.js';
import { resourceStatus } from './sites-rendering.js';

export const eventTypes = ['job', 'site', 'image'] as const;
export type EventType = (typeof eventTypes)[number];

export type Viewer = Pick<Caller, 'dn' | 'role'> & {
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
export function renderChange(change: Change, viewer: Viewer): string | undefined {
  const { type, seq, subject: id, atMs, body } = change;
  if (type === 'lost') {
    const { types } = body as { types: EventType[] };
    if (!types.some((each) => viewer.types.includes(each))) return undefined;
    return sseEvent('reset', { types, reason: 'some changes were not heard of' }, seq);
  }
  const wanted = viewer.types.find((each) => each === type);
  const told = wanted && renderers[wanted](change, viewer);
  if (!told) return undefined;
  return sseEvent(type, { type, id, time: formatDate(atMs), ...told }, seq);
}

const renderers: Record<EventType, (change: Change, viewer: Viewer) => object | undefined> = {
  job({ subject, ownerDn, body }, viewer) {
    if (!isOwner(viewer, ownerDn)) return undefined;
    const { targetId, parentId, ...facts } = body as JobChange; // by the job store
    return {
      ...facts,
      href: viewer.links.job(subject),
      site: viewer.links.site(targetId),
      ...(parentId !== undefined && { parent: viewer.links.job(parentId) }),
    };
  },
  site({ subject, ownerDn, body }, viewer) {
    if (!isOwner(viewer, ownerDn)) return undefined;
    const { change, state, evidence, image, start } = body as SiteChange; // by the target systems
    const { source, fact, atMs } = evidence;
    return {
      ...{ change, state, resourceStatus: resourceStatus[state] },
      evidence: { source, fact, at: formatDate(atMs) },
      ...{ image, start, href: viewer.links.site(subject) },
    };
  },
  image({ subject, ownerDn, body }, viewer) {
    const { change, isPublic, wasPublic, ...facts } = body as LoggedImage; // by the image follower
    const href = `${viewer.images}/${subject}`;
    if (isOwner(viewer, ownerDn)) return { change, ...facts, href };
    // to the others an image begins and ends with being public
    if (!isPublic && !wasPublic) return undefined;
    const seen = !isPublic ? 'removed' : !wasPublic ? 'published' : change;
    return { change: seen, ...facts, href };
  },
};

function isOwner({ dn, role }: Viewer, ownerDn: string): boolean {
  return role === 'admin' || dn === ownerDn || equalDns(dn, ownerDn);
}
