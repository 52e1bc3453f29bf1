import type { Job } from './job.js';
import { jobStatus } from './status.js';

/** Of what a job's user wants to be told, and where (unicore-rest 3.7). */
export type NotificationWish = {
  readonly url: string;
  /** Words of the REST interface. */
  readonly status: readonly string[];
  /** Regular expressions over the batch system's own words. */
  readonly bssStatus: readonly string[];
};

/** One message, as it is sent; stored with the change that it tells of. */
export type Notice = {
  /** Unique within its job. */
  readonly id: string;
  readonly body: Readonly<Record<string, string>>;
};

export const defaultStatuses = ['RUNNING', 'SUCCESSFUL', 'FAILED'];
/** A batch system that changes its mind all the time must not fill the disk. */
const maxNotices = 50;

/**
 * Adds what is to be told of a change.
 * @param matches says whether a raw state of the batch system is one that the user named
 */
export function withNotices(
  before: Job,
  after: Job,
  matches: (pattern: string, rawState: string) => boolean,
): Job {
  const wish = after.plan?.notify;
  if (!wish || after === before || after.state === 'DESTROYED') return after;
  const bodies: Record<string, string>[] = [];
  const { rawState } = after.run;
  if (rawState !== undefined && rawState !== before.run.rawState)
    if (wish.bssStatus.some((pattern) => matches(pattern, rawState)))
      bodies.push({ bssStatus: rawState });
  const status = jobStatus(after);
  if (status !== jobStatus(before) && wish.status.includes(status))
    bodies.push(statusBody(after, status));
  if (bodies.length === 0) return after;
  const last = Number(after.notices?.at(-1)?.id ?? 0);
  const notices = bodies.map((body, at) => ({
    id: String(last + 1 + at),
    body: { href: after.url ?? after.id, ...body },
  }));
  return { ...after, notices: [...(after.notices ?? []), ...notices].slice(-maxNotices) };
}

function statusBody({ state, run }: Job, status: string): Record<string, string> {
  return {
    status,
    statusMessage: run.result?.message ?? '',
    batchSystemID: run.bssId ?? 'N/A',
    ...(state === 'DONE' && run.exitCode !== undefined && { exitCode: String(run.exitCode) }),
  };
}
