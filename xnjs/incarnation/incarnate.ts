import type { Idb } from '../idb/idb.js';
import { jobName, type JobDescription } from '../job/description.js';
import type { Submission } from '../tsi/tsi.js';
import { resolveApplication, type Application } from './application.js';
import { checkResources } from './resources.js';
import { inScript, jobScript } from './script.js';

export type IncarnationFacts = {
  /** Absolute, without trailing slash. */
  readonly workingDirectory: string;
  readonly userDn: string;
  /** What each job of the target system has. */
  readonly environment: Readonly<Record<string, string>>;
  /** For jobs that name none, octal. */
  readonly defaultUmask: string;
};

export type Incarnation = {
  readonly application: Application;
  readonly ignoreNonZeroExitCode: boolean;
  /** Octal. */
  readonly umask: string;
  /** `undefined`: there is nothing to run. */
  readonly submission: Omit<Submission, 'attemptId'> | undefined;
};

/**
 * Turns an abstract job into the script and the requests that this target system runs for it.
 * @throws {@link JobError} `APPLICATION_UNKNOWN`, `JOB_INVALID`, `RESOURCE_UNKNOWN`, `RESOURCE_OUT_OF_RANGE`
 */
export function incarnate(job: JobDescription, idb: Idb, facts: IncarnationFacts): Incarnation {
  const application = resolveApplication(job, idb);
  const resources = checkResources(job, idb, application);
  const umask = job.Umask ?? job.umask ?? facts.defaultUmask;
  const runs =
    application.executable !== undefined ||
    inScript(job, 'pre') !== undefined ||
    inScript(job, 'post') !== undefined ||
    job['Job type'] === 'RAW' ||
    job['Job type'] === 'ALLOCATE';
  const directory = `${facts.workingDirectory}/`;
  return {
    application,
    ignoreNonZeroExitCode: application.ignoreNonZeroExitCode,
    umask,
    submission: runs
      ? {
          uspaceDir: directory,
          outcomeDir: directory,
          stdout: job.Stdout,
          stderr: job.Stderr,
          jobName: jobName(job),
          ...resources,
          script: jobScript(job, application, resources, { ...facts, umask }),
        }
      : undefined,
  };
}
