import type { Job, Plan, Run } from '#xnjs/job/job.js';

export const aPlan: Plan = {
  stagesIn: false,
  stagesOut: false,
  waitsForClient: false,
  executes: true,
  ignoreNonZeroExitCode: false,
  umask: '077',
};

export function aJob(change: Partial<Omit<Job, 'run'>> & { run?: Partial<Run> } = {}): Job {
  const { run, ...rest } = change;
  return {
    id: 'j1',
    targetId: 't1',
    ownerDn: 'CN=Alice',
    state: 'CREATED',
    effects: [],
    name: 'sample',
    jobType: 'BATCH',
    description: {},
    preferences: {},
    tags: [],
    log: [],
    createdMs: 1_000,
    terminationMs: 9_000_000,
    released: false,
    ...rest,
    run: { number: 1, startedMs: 1_000, ...run },
  };
}
