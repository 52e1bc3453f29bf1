import type { Job } from '../job/job.js';
import { jobStatus, type JobStatus } from '../job/status.js';

/** What is told of a job: as much as is needed not to ask for it each time. */
export type JobChange = {
  readonly change: 'created' | 'status' | 'deleted';
  readonly name: string;
  readonly status: JobStatus;
  readonly statusMessage?: string;
  readonly exitCode?: string;
  readonly targetId: string;
  /** The sweep that it is a child of. */
  readonly parentId?: string;
  /** Whom it may be told beside the owner, if they may still read the job; absent: nobody. */
  readonly acl?: readonly string[];
};

const isEnding = ({ state }: Job): boolean => state === 'DESTROYING' || state === 'DESTROYED';

/** What a commit has brought that users can see, by the words of the REST interface. */
export function jobChange(before: Job | undefined, after: Job): JobChange | undefined {
  if (before && isEnding(before)) return undefined;
  const { run, name, targetId, parentId, acl = [] } = after;
  const deleted = isEnding(after);
  if (!before && deleted) return undefined;
  const status = jobStatus(deleted && before ? before : after);
  if (before && !deleted && status === jobStatus(before)) return undefined;
  const over = after.state === 'DONE';
  return {
    change: deleted ? 'deleted' : before ? 'status' : 'created',
    ...{ name, status, targetId },
    ...(over && { statusMessage: run.result?.message ?? '' }),
    ...(over && run.exitCode !== undefined && { exitCode: String(run.exitCode) }),
    ...(parentId !== undefined && { parentId }),
    ...(acl.length > 0 && { acl }),
  };
}
