import { createHash, randomInt } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { errorText } from '#kernel/errors.js';
import { TsiError } from '../protocol/error.js';
import { words, type Outcome } from './batch-commands.js';
import type { Host, JobRequest, Owner } from './bss.js';
import { jobFile, makeDirectory, readSmallFile, umaskOf, writeScript } from './job-files.js';
import type { JobRecords } from './job-records.js';
import { processes } from './processes.js';
import type { SlurmCommands } from './slurm-commands.js';
import { batchOptions, resourceOptions, type SlurmDefaults } from './slurm-options.js';
import { findMarked, isUncertain, parseJobId } from './slurm-output.js';

export type SubmissionContext = {
  readonly host: Host;
  readonly commands: SlurmCommands;
  readonly records: JobRecords;
  readonly defaults: SlurmDefaults;
};

const maxJobFileBytes = 1024 * 1024;
/** A message of a program that has ended may still be on its way into the controller. */
const settleMs = 2_000;
/** How long a controller that does not answer is asked whether it has a job. */
const patienceMs = 600_000;

/**
 * Submits each attempt once (docs/adr/011). The attempt's token is on record before sbatch is started, and
 * in the comment of the job; where a token is known and no id, Slurm is asked before anything else.
 */
export class SlurmSubmissions {
  readonly #context: SubmissionContext;
  readonly #running = new Map<string, Promise<string>>();

  constructor(context: SubmissionContext) {
    this.#context = context;
  }

  submit(owner: Owner, job: JobRequest): Promise<string> {
    const token = tokenOf(owner, job);
    const running = this.#running.get(token) ?? this.#once(owner, job, token);
    this.#running.set(token, running);
    const forget = (): void => void this.#running.delete(token);
    running.then(forget, forget);
    return running;
  }

  async #once(owner: Owner, job: JobRequest, token: string): Promise<string> {
    const { records } = this.#context;
    if (job.attemptId === undefined) return this.#send(owner, job, token);
    const repeated = records.has(token);
    if (!repeated) records.create(recordOf(owner, job, token));
    const known =
      records.bssId(token) ?? (repeated ? await this.find(owner, job, token) : undefined);
    const id = known ?? (await this.#send(owner, job, token));
    if (records.bssId(token) === undefined) records.noteBssId(token, id);
    return id;
  }

  async #send(owner: Owner, job: JobRequest, token: string): Promise<string> {
    const { commands, defaults, host, records } = this.#context;
    let outcome: Outcome;
    try {
      host.as(owner, () => writeFiles(job, token));
      const options =
        job.mode === 'raw' ? [] : [...resourceOptions(job, defaults), ...batchOptions(job)];
      const args = ['--parsable', ...options, comment(job, token), `./${submitFile(token)}`];
      outcome = await commands.run(owner, commands.line('submit', args), {
        cwd: job.uspaceDir,
        umask: umaskOf(job),
      });
    } catch (error) {
      records.remove(token);
      throw error;
    }
    const id = outcome.status === 0 ? parseJobId(outcome.stdout) : undefined;
    if (id !== undefined) return id;
    const refused = outcome.status !== 0 && outcome.status !== 'killed';
    const found =
      refused && !isUncertain(outcome.stderr) ? undefined : await this.find(owner, job, token);
    if (found !== undefined) return found;
    records.remove(token);
    throw new TsiError('TSI_FAILED', words(outcome));
  }

  /**
   * Whether Slurm has a job with this token. Answers only when it knows: after what submits has ended,
   * and twice for no.
   * @throws `TSI_FAILED` when Slurm cannot be asked for long; the next submission asks again
   */
  async find(owner: Owner, job: JobRequest, token: string): Promise<string | undefined> {
    const end = Date.now() + patienceMs;
    for (let misses = 0; ;) {
      const answer = isInHand(token)
        ? { failure: new TsiError('TSI_FAILED', 'the submission of this job does not end') }
        : await this.#look(owner, job, token);
      if (answer.id !== undefined) return answer.id;
      if (answer.failure === undefined) misses += 1;
      else if (Date.now() > end) throw answer.failure;
      if (misses === 2) return undefined;
      await sleep(settleMs);
    }
  }

  /** In the queue; among what has been run here; and in the accounts, where there are any. */
  async #look(
    owner: Owner,
    job: JobRequest,
    token: string,
  ): Promise<{ readonly id?: string | undefined; readonly failure?: Error }> {
    const { commands, host } = this.#context;
    try {
      const user = `--user=${owner.login}`;
      const queued = findMarked(await commands.read(owner, 'find', user), markOf(token));
      if (queued !== undefined) return { id: queued };
      const ran = host.as(owner, () => readNote(join(job.uspaceDir, noteFile(token))));
      if (ran !== undefined) return { id: ran };
      const ended = await commands.read(owner, 'find_ended', user).catch(() => '');
      return { id: findMarked(ended, markOf(token)) };
    } catch (error) {
      return { failure: new TsiError('TSI_FAILED', errorText(error), {}, { cause: error }) };
    }
  }
}

/** The same for the same attempt, so that it is found again even by an agent that lost its records. */
export function tokenOf({ uid }: Owner, { attemptId }: JobRequest): string {
  if (attemptId === undefined) return String(randomInt(100_000_000_000, 281_474_976_710_655));
  const hash = createHash('sha256').update(`${uid} ${attemptId}`).digest();
  return String(hash.readBigUInt64BE());
}

export function recordOf(owner: Owner, job: JobRequest, token: string) {
  return {
    id: token,
    uid: owner.uid,
    login: owner.login,
    ...(job.attemptId !== undefined && { attemptId: job.attemptId }),
    ...(job.jobName !== undefined && { jobName: job.jobName }),
    ...(job.queue !== undefined && { queue: job.queue }),
    uspaceDir: job.uspaceDir,
    createdMs: Date.now(),
  };
}

/** On the job, before the comment that the user wants (`#TSI_SSR_COMMENT`, as with stock TSIs). */
export function comment({ siteResources }: JobRequest, token: string): string {
  const users = siteResources?.['COMMENT'];
  return `--comment=${markOf(token)}${users === undefined ? '' : ` ${users}`}`;
}

function markOf(token: string): string {
  return `tsi-${token}`;
}

/** Whether a program of ours, also of an agent before us, still has the token in hand. */
export function isInHand(token: string): boolean {
  return processes().some(({ pid }) => argumentsOf(pid).some((word) => isMark(word, token)));
}

function isMark(word: string, token: string): boolean {
  return (
    word.startsWith('--comment=') && word.slice('--comment='.length).split(' ')[0] === markOf(token)
  );
}

function argumentsOf(pid: number): string[] {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
  } catch {
    return []; // it has ended meanwhile
  }
}

function submitFile(token: string): string {
  return `bss_submit_${token}`;
}

/** Where a job notes its id when it starts: Slurm forgets jobs that have ended, after minutes. */
function noteFile(token: string): string {
  return `bss_id_${token}`;
}

/** As the owner: what Slurm copies, and the job proper, which it starts. */
function writeFiles(job: JobRequest, token: string): void {
  makeDirectory(job.outcomeDir, umaskOf(job));
  writeScript(resolve(job.uspaceDir, jobFile(token)), job.text);
  const head =
    job.mode === 'raw'
      ? readSmallFile(resolve(job.uspaceDir, required(job.jobFile)), maxJobFileBytes)
      : '#!/bin/bash';
  const lines = [
    head,
    `echo "\${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}" >${noteFile(token)}`,
    ...(job.arraySize === undefined ? [] : ['export UC_ARRAY_TASK_ID=$SLURM_ARRAY_TASK_ID']),
    `exec ./${jobFile(token)}`,
  ];
  writeScript(resolve(job.uspaceDir, submitFile(token)), `${lines.join('\n')}\n`);
}

function required(name: string | undefined): string {
  return name ?? fail('#TSI_JOB_MODE raw needs #TSI_JOB_FILE');
}

function fail(text: string): never {
  throw new TsiError('TSI_FAILED', text);
}

function readNote(path: string): string | undefined {
  try {
    return /^(\d+)\n/.exec(readSmallFile(path, 64))?.[1];
  } catch {
    return undefined; // it has not started
  }
}
