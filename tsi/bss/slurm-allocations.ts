import { closeSync, existsSync, rmSync, writeFileSync } from 'node:fs';
import { basename, resolve } from 'node:path';
import { TsiError } from '../protocol/error.js';
import type { Bss, JobRequest, Owner } from './bss.js';
import { jobFile, makeDirectory, openFile, umaskOf, writeScript } from './job-files.js';
import { resourceOptions } from './slurm-options.js';
import {
  comment,
  isInHand,
  recordOf,
  tokenOf,
  type SlurmSubmissions,
  type SubmissionContext,
} from './slurm-submissions.js';

/**
 * Waits for salloc, then notes the number of the allocation and, last, the exit code: who sees it may
 * read the number. A signal is passed on, and salloc withdraws what it asked for.
 */
const keeper = `umask "$1"; number=$2 code=$3 out=$4 err=$5; shift 5; rm -f -- "$number" "$code"
"$@" >"$out" 2>"$err" & child=$!
trap 'kill -TERM "$child"' TERM INT HUP
wait "$child"; status=$?
while kill -0 "$child" 2>/dev/null; do wait "$child"; status=$?; done
sed -n 's/.*Granted job allocation \\([0-9][0-9]*\\).*/\\1/p' "$out" "$err" | head -n 1 >"$number.new"
mv -- "$number.new" "$number"
printf '%s\\n' "$status" >"$code.new"; mv -- "$code.new" "$code"`;

/** Nodes that are held without a job on them, and what is run there afterwards (§2.8). */
export class SlurmAllocations {
  readonly #context: SubmissionContext;
  readonly #submissions: SlurmSubmissions;
  readonly #steps: Bss;

  /** @param steps the programs that watch over what runs in allocations are local jobs */
  constructor(context: SubmissionContext, submissions: SlurmSubmissions, steps: Bss) {
    this.#context = context;
    this.#submissions = submissions;
    this.#steps = steps;
  }

  /** Once for each attempt: what asks, or has got an answer, is left alone. */
  async allocate(owner: Owner, job: JobRequest): Promise<void> {
    const { records } = this.#context;
    const token = tokenOf(owner, job);
    if (job.attemptId !== undefined && records.has(token)) {
      const { code } = filesOf(job);
      const answered = this.#context.host.as(owner, () => existsSync(code));
      if (answered || isInHand(token)) return;
      if ((await this.#submissions.find(owner, job, token)) !== undefined) return;
    } else if (job.attemptId !== undefined) records.create(recordOf(owner, job, token));
    await this.#ask(owner, job, token);
  }

  async #ask(owner: Owner, job: JobRequest, token: string): Promise<void> {
    const { commands, defaults, host } = this.#context;
    const { number, code, pid, out, err } = filesOf(job);
    host.as(owner, () => {
      makeDirectory(job.outcomeDir, umaskOf(job));
      rmSync(code, { force: true });
    });
    const options = [...resourceOptions(job, defaults), comment(job, token)];
    const umask = umaskOf(job).toString(8);
    const child = host.spawn(
      owner,
      '/bin/sh',
      ['-c', keeper, 'sh', umask, number, code, out, err, ...commands.line('alloc', options)],
      { cwd: job.uspaceDir, stdio: 'ignore' },
    );
    child.unref();
    await new Promise((done, failed) => child.once('spawn', done).once('error', failed));
    host.as(owner, () => {
      const fd = openFile(pid, 0o600);
      writeFileSync(fd, `${child.pid ?? ''}\n`);
      closeSync(fd);
    });
  }

  /**
   * A job in an allocation is a step of it. It is waited for by srun, a process of this system, which
   * gives it its id and its exit code; on the nodes Slurm starts it.
   */
  async runIn(allocation: string, owner: Owner, job: JobRequest): Promise<string> {
    const { commands, host } = this.#context;
    const step = `${jobFile(tokenOf(owner, job))}.step`;
    host.as(owner, () => writeScript(resolve(job.uspaceDir, step), job.text));
    const line = commands.line('step', [`--jobid=${allocation}`, ...stepOptions(job), `./${step}`]);
    const text = `#!/bin/bash\nexec ${line.map(quote).join(' ')}\n`;
    return this.#steps.submit(owner, { ...job, text });
  }
}

/** By default all that the allocation has, as srun does. */
function stepOptions({ nodes, processorsPerNode, totalProcessors }: JobRequest): string[] {
  return [
    ...(nodes ? [`--nodes=${nodes}`] : []),
    ...(nodes && processorsPerNode ? [`--ntasks-per-node=${processorsPerNode}`] : []),
    ...(totalProcessors ? [`--ntasks=${totalProcessors}`] : []),
  ];
}

/** Names that the request may give, in the uspace and nowhere else. */
function filesOf(job: JobRequest) {
  const inUspace = (header: string, name: string): string => {
    if (basename(name) === name && !/^\.{1,2}$/.test(name)) return resolve(job.uspaceDir, name);
    throw new TsiError('TSI_FAILED', `#${header} must be the name of a file, not ${name}`);
  };
  return {
    number: inUspace('TSI_ALLOCATION_ID', job.allocationId ?? 'UNICORE_ALLOCATION_ID'),
    code: inUspace('TSI_EXIT_CODE_FILE', job.exitCodeFile ?? 'UNICORE_SCRIPT_EXIT_CODE'),
    pid: inUspace('TSI_PID_FILE', job.pidFile ?? 'UNICORE_SCRIPT_PID'),
    out: resolve(job.outcomeDir, job.stdout),
    err: resolve(job.outcomeDir, job.stderr),
  };
}

function quote(word: string): string {
  return `'${word.replaceAll("'", `'\\''`)}'`;
}
