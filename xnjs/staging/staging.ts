import type { FileSpace } from '../files/file-space.js';
import type { Job } from '../job/job.js';
import type { Target } from '../target.js';
import type { Tsi } from '../tsi/tsi.js';

export type StagingSite = {
  readonly files: FileSpace;
  readonly tsi: () => Tsi;
  readonly target: Target;
};
/** Performs the transfers of a job; resumes what a former try (also of a dead server) has begun. Rejects with the first failure that is not to be ignored. */
export type Staging = {
  stage(
    job: Job,
    direction: 'in' | 'out',
    site: StagingSite,
    signal: AbortSignal,
  ): Promise<{ readonly log: readonly string[] }>;
};
