import { BatchCommands } from './batch-commands.js';
import type { Host } from './bss.js';

/**
 * Slurm's programs. The first nine are stock TSIs' and have their keys; the others are ours. The formats
 * are what `slurm-output.ts` reads. Stock TSIs ask for the first two columns of `get_partitions` only.
 */
const defaults = {
  submit: 'sbatch',
  alloc: 'salloc --no-shell',
  qstat: 'squeue --noheader --all --format="%i %T %P"',
  details: 'scontrol show job',
  abort: 'scancel %s',
  hold: 'scontrol hold',
  resume: 'scontrol release',
  get_partitions: 'sinfo --all --noheader --exact --format="%P %D %l %c %m"',
  suspend: 'scontrol suspend',
  continue: 'scontrol resume',
  step: 'srun',
  find: 'squeue --noheader --all --states=all --format="%i|%k"',
  find_ended:
    'sacct --noheader --parsable2 --allocations --starttime=now-7days --format=JobID,Comment',
  reserve: 'scontrol create reservation',
  show_reservation: 'scontrol --oneliner show reservation',
  cancel_reservation: 'scontrol delete',
  get_budget: 'sshare --noheader --parsable2 --format=Account,User,GrpTRESMins,GrpTRESRaw',
} as const;

export type SlurmCommands = BatchCommands<keyof typeof defaults>;

/** `tsi.slurm_conf` is for a configuration that is not where Slurm's programs look. */
export function slurmCommands(host: Host, properties: ReadonlyMap<string, string>): SlurmCommands {
  const conf = properties.get('tsi.slurm_conf');
  return new BatchCommands(host, properties, defaults, conf ? [`SLURM_CONF=${conf}`] : []);
}
