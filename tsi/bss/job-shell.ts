import { mkdirSync } from 'node:fs';
import { resolve } from 'node:path';
import type { JobRequest } from './bss.js';
import { jobFile, openFile, umaskOf, writeScript } from './job-files.js';
import { graceSeconds } from './session.js';

/** What of a request matters where no batch system stands behind it. */
export type LocalRequest = Pick<JobRequest, 'uspaceDir' | 'outcomeDir' | 'stdout' | 'stderr'> &
  Pick<JobRequest, 'script' | 'text'> &
  Partial<
    Pick<JobRequest, 'attemptId' | 'jobName' | 'queue' | 'wallTime' | 'arraySize' | 'arrayLimit'>
  >;

/**
 * The job's own shell: notes that it runs, runs the job, notes the exit code. A signal to the session
 * ends the job, and the shell after it. `$0` shows the job's name in process lists, as stock TSIs do.
 */
const shell = `umask "$1"; shift; stop=
IFS= read -r line </proc/$$/stat; printf '%s\\n' "$line" >&3
trap stop=143 TERM INT HUP
if [ -z "$stop" ]; then "$@" 3>&-; else (exit "$stop"); fi
printf 'exit %s\\n' "$?" >&3`;

/**
 * Runs the members of an array, some at a time; the last code that is not 0 is that of the whole. `wait -n`
 * only tells that it is time to look again: it forgets what ended before it was called.
 */
const arrayRunner = `size=$1 limit=$2 out=$3 err=$4 stop= code=0 members=(); shift 4
trap 'stop=143; kill $(jobs -pr) 2>/dev/null' TERM INT HUP
for ((task = 0; task < size; task++)); do
  while now=($(jobs -pr)); ((\${#now[@]} >= limit)); do wait -n; done
  [[ -z $stop ]] || break
  UC_ARRAY_TASK_ID=$task "$@" >"$out$task" 2>"$err$task" &
  members+=($!)
done
for member in "\${members[@]}"; do wait "$member" || code=$?; done
exit "\${stop:-$code}"`;

/** The program that runs a job, its arguments and the umask that it gets. */
export function jobCommand(
  job: LocalRequest,
  id: string,
  membersAtOnce: number,
): [file: string, ...args: string[]] {
  const file = jobFile(id);
  const limit = job.wallTime ? ['timeout', `-k${graceSeconds}`, `${job.wallTime}`] : [];
  const outputs = [job.stdout, job.stderr].map((name) => resolve(job.outcomeDir, name));
  const array =
    job.arraySize === undefined
      ? []
      : ['/bin/bash', '-c', arrayRunner, file, `${job.arraySize}`, `${membersAtOnce}`, ...outputs];
  const umask = umaskOf(job).toString(8);
  return ['/bin/sh', '-c', shell, file, umask, ...array, ...limit, `./${file}`];
}

/** As the owner: the job's file and output. @returns descriptors of stdout and stderr */
export function prepareFiles(job: LocalRequest, id: string): number[] {
  const umask = umaskOf(job);
  const before = process.umask(umask);
  try {
    mkdirSync(job.outcomeDir, { recursive: true });
    writeScript(resolve(job.uspaceDir, jobFile(id)), job.text);
    return [job.stdout, job.stderr].map((name) => openFile(resolve(job.outcomeDir, name), 0o666));
  } finally {
    process.umask(before);
  }
}
