import { isMap } from './description-scalars.js';
import type { RawDescription } from './description.js';
import { JobError } from './errors.js';
import type { Job } from './job.js';

/**
 * A description whose job runs in an allocation: by the login node, from where the batch system's own
 * commands find the allocation by this variable (unicore-rest 3.5.5).
 * @throws {@link JobError} `CONFLICT`
 */
export function inAllocation(allocation: Job, description: RawDescription): RawDescription {
  const { id, plan, run, state } = allocation;
  if (!plan?.allocates) throw new JobError('CONFLICT', `job ${id} is no allocation`, { jobId: id });
  if (state !== 'RUNNING' || !run.granted || run.bssId === undefined)
    throw new JobError('CONFLICT', `allocation ${id} is not there to be used: it is ${state}`, {
      jobId: id,
    });
  const { Parameters: parameters } = description;
  return {
    ...description,
    'Job type': 'ON_LOGIN_NODE',
    Parameters: { ...(isMap(parameters) && parameters), SLURM_JOB_ID: run.bssId },
  };
}
