import { resolve } from 'node:path';
import { TsiError } from '../protocol/error.js';
import type { JobRequest } from './bss.js';

export type SlurmDefaults = {
  /** `tsi.default_job_name` */
  readonly jobName: string;
  /** `tsi.nodes_filter`: features that every node must have. */
  readonly nodesFilter?: string | undefined;
};

/**
 * Resources as options for sbatch and salloc (§2.8, §4.4). Each is one argument, `--name=value`: no value
 * can become a second option, or a directive, as it could in an `#SBATCH` line.
 */
export function resourceOptions(job: JobRequest, defaults: SlurmDefaults): string[] {
  const { nodes, processorsPerNode: perNode, totalProcessors: total } = job;
  const byNode = !!perNode && (!!nodes || !total);
  const exclusive = job.exclusive ?? /^true$/i.test(job.siteResources?.['EXCLUSIVE'] ?? '');
  return [
    `--job-name=${job.jobName ?? defaults.jobName}`,
    ...option('partition', job.queue),
    ...option('account', job.project),
    ...option('qos', job.qos),
    ...option('reservation', job.reservation),
    ...option('constraint', constraint(job.nodesFilter, defaults.nodesFilter)),
    ...option('nodes', positive(nodes)),
    ...option('ntasks-per-node', byNode ? perNode : undefined),
    ...option('ntasks', byNode ? undefined : positive(total)),
    ...option('gpus-per-node', positive(job.gpusPerNode)),
    ...option('mem', job.memoryMiB === undefined ? undefined : `${job.memoryMiB}M`),
    ...option('time', job.wallTime ? Math.ceil(job.wallTime / 60) : undefined),
    ...option('mail-user', job.email),
    ...(job.email === undefined ? [] : ['--mail-type=ALL']),
    ...(exclusive ? ['--exclusive'] : []),
  ];
}

/** What only a batch job has. Each member of an array has output of its own, as with stock TSIs. */
export function batchOptions(job: JobRequest): string[] {
  const { arraySize, arrayLimit } = job;
  const member = arraySize === undefined ? '' : '%a';
  const limit = arrayLimit ? `%${arrayLimit}` : '';
  return [
    `--chdir=${job.uspaceDir}`,
    `--output=${fileName('TSI_STDOUT', job.outcomeDir, job.stdout)}${member}`,
    `--error=${fileName('TSI_STDERR', job.outcomeDir, job.stderr)}${member}`,
    ...option('array', arraySize === undefined ? undefined : `0-${arraySize - 1}${limit}`),
  ];
}

function option(name: string, value: string | number | undefined): string[] {
  return value === undefined ? [] : [`--${name}=${value}`];
}

function positive(value: number | undefined): number | undefined {
  return value === 0 ? undefined : value;
}

/** Slurm puts values for `%j` and the like, and a backslash switches that off for the whole name. */
function fileName(header: string, dir: string, name: string): string {
  const path = resolve(dir, name);
  if (path.includes('\\'))
    throw new TsiError('TSI_FAILED', `#${header}: Slurm takes no backslash in ${path}`);
  return path.replaceAll('%', '%%');
}

/** The site's filter holds whatever the user's says. */
function constraint(users: string | undefined, sites: string | undefined): string | undefined {
  if (users === undefined || sites === undefined) return users ?? sites;
  if (/[|[\]()]/.test(users))
    throw new TsiError(
      'TSI_FAILED',
      '#TSI_BSS_NODES_FILTER: only features joined by & can be added to the filter of this site',
    );
  return `${sites}&${users}`;
}
