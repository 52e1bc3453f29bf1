import { z } from 'zod';
import { formatDate } from '#kernel/clock.js';
import { answersJson } from '#kernel/http/answers.js';
import { operations, type Policy } from '#kernel/http/operation.js';
import { json } from '#kernel/http/reply.js';
import { linkSignals } from '#kernel/net/deadline.js';
import type { Change, ChangeFeed } from '#kernel/persistence/change-feed.js';
import { equalDns } from '#kernel/security/dn.js';
import type { LoggedImageChange } from './catalogue/image-change.js';
import { ImageChanges, longestWaitSeconds, type ImageChange } from './contract.js';

export type ChangesDeps = {
  readonly feed: ChangeFeed;
  /** Servers whose word about a user counts: they may know of all images too. */
  readonly followers: readonly string[];
  /** Nobody is to wait any longer. */
  readonly closing: AbortSignal;
};
const operation = operations<ChangesDeps>();
const atOnce = 500;

const followerOrAdmin: Policy<ChangesDeps> = {
  rule: 'role',
  description: 'administrators, and servers whose word about users counts here',
  anonymous: true,
  decide: ({ dn, role }, { followers }) => {
    const allowed = role === 'admin' || followers.some((follower) => equalDns(follower, dn));
    return { allowed, why: allowed ? 'administrator, or server that is trusted' : `role ${role}` };
  },
};

const getChanges = operation({
  method: 'GET',
  path: '/changes',
  summary: 'What has become of images since then; waits for something to happen. For servers',
  input: z.strictObject({
    since: z.coerce.number().int().nonnegative().optional().describe('`next` of an answer before'),
    waitSeconds: z.coerce.number().min(0).max(longestWaitSeconds).default(0),
  }),
  answers: answersJson(ImageChanges),
  id: 'getImageChanges',
  tag: 'images',
  policy: followerOrAdmin,
  run: async ({ feed, closing }, { since, waitSeconds }, { signal }) => {
    if (since === undefined) return json(answer([], await feed.newest()));
    // listened to before it is looked: nothing comes in between
    using until = linkSignals(signal, closing);
    using more = listen(feed, waitSeconds * 1_000, until.signal);
    for (;;) {
      const changes = await feed.after(since, atOnce);
      if (!changes) return json({ ...answer([], await feed.newest()), lost: true });
      if (changes.length > 0 || more.over) return json(answer(changes, since));
      await more.next();
    }
  },
});

/** Is over after a time, or when nobody waits any more. */
function listen(feed: ChangeFeed, ms: number, ended: AbortSignal) {
  let over = ms === 0 || ended.aborted;
  let news = false;
  let wake: (() => void) | undefined;
  const tell = (): void => {
    news = true;
    wake?.();
  };
  const stop = (): void => {
    over = true;
    tell();
  };
  const timer = setTimeout(stop, ms);
  ended.addEventListener('abort', stop, { once: true });
  const ignore = feed.onMore(tell);
  return {
    get over() {
      return over;
    },
    async next() {
      if (!news) await new Promise<void>((resolve) => (wake = resolve));
      news = false;
    },
    [Symbol.dispose]() {
      ignore();
      clearTimeout(timer);
      ended.removeEventListener('abort', stop);
    },
  };
}

function answer(changes: readonly Change[], since: number): ImageChanges {
  return { changes: changes.map(render), next: changes.at(-1)?.seq ?? since, lost: false };
}

function render({ subject, ownerDn, atMs, body }: Change): ImageChange {
  const logged = body as LoggedImageChange; // by the catalogue
  return { id: subject, owner: ownerDn, time: formatDate(atMs), ...logged };
}

export const changesOperations = [getChanges];
