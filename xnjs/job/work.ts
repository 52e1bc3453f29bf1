import { text } from 'node:stream/consumers';
import type { Clock } from '#kernel/clock.js';
import { errorText, GridError } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import { linkSignals } from '#kernel/net/deadline.js';
import type { FileSpace } from '../files/file-space.js';
import { removal, TsiFileSpace } from '../files/tsi-file-space.js';
import { idbOf } from '../idb/idb.js';
import { incarnate, type Incarnation } from '../incarnation/incarnate.js';
import { quote } from '../incarnation/quote.js';
import { abortMarker, exitCodeFile } from '../incarnation/script.js';
import type { Staging } from '../staging/staging.js';
import type { Target } from '../target.js';
import type { BssEntry, Tsi } from '../tsi/tsi.js';
import type { JobConfig } from './config.js';
import { jobName, parseDescription, type JobDescription } from './description.js';
import type { Job } from './job.js';
import type { Lanes } from './lanes.js';
import type { Effect, JobEvent } from './state.js';
import type { Watcher } from './watcher.js';

/** The target system of a job is proven gone. */
export class TargetLost extends GridError<'NOT_FOUND'> {
  constructor(targetId: string, reason: string) {
    super('NOT_FOUND', `target system ${targetId} lost: ${reason}`, { vmId: targetId });
  }
}

export type JobWorkOptions = {
  /** @throws {@link TargetLost} */
  readonly target: (targetId: string) => Target;
  readonly lanes: Lanes;
  readonly watcher: Watcher;
  readonly staging: Staging;
  readonly clock: Clock;
  readonly log: Log;
  readonly config: JobConfig;
  /** The engine is closing: even what must not be cut short otherwise is. */
  readonly closing: AbortSignal;
};

type Timed<Event> = Event extends unknown ? Omit<Event, 'atMs' | 'run'> : never;
type News = Timed<Extract<JobEvent, { run: number }>>;
type ListedNews = Extract<News, { type: 'queued' | 'running' | 'gone' }>;
type Work = Exclude<Effect['do'], 'watch'>;
type Call = <T>(work: (tsi: Tsi, target: Target) => Promise<T>) => Promise<T>;

/** Performs the effects of jobs. All of it may be done twice. */
export class JobWork {
  readonly #options: JobWorkOptions;
  /** Attempts that were stored by this process and never sent: nothing of them can be running. */
  readonly #unsent = new Set<string>();

  constructor(options: JobWorkOptions) {
    this.#options = options;
  }

  /** The job has just got an attempt. */
  attemptStored({ run: { attemptId } }: Job): void {
    if (attemptId !== undefined) this.#unsent.add(attemptId);
  }

  /**
   * @param signal the job has gone on without this effect
   * @returns what came of it; `undefined` if it was cut short
   */
  async perform(job: Job, effect: Work, signal: AbortSignal): Promise<JobEvent | undefined> {
    const { clock, log, closing } = this.#options;
    const about = { atMs: clock.now(), run: job.run.number };
    try {
      const event = await this.#do(effect, job, signal);
      return { ...event, run: job.run.number, atMs: clock.now() };
    } catch (error) {
      if (signal.aborted || closing.aborted) return undefined;
      about.atMs = clock.now();
      const gone = error instanceof TargetLost;
      if (!gone) log.info({ jobId: job.id, effect, err: error }, 'a step of a job failed');
      if (effect === 'stop') return { type: 'stopped', ...about };
      if (effect === 'removeDirectory') return { type: 'removed', ...about };
      const reason = errorText(error);
      return gone
        ? { type: 'lost', atMs: about.atMs, reason }
        : {
            type: 'failed',
            ...about,
            reason: error instanceof GridError ? reason : `Processing failed: ${reason}`,
          };
    }
  }

  async #do(effect: Work, job: Job, signal: AbortSignal): Promise<News> {
    using ended = linkSignals(signal, this.#options.closing);
    const call = this.#caller(job, ended.signal);
    switch (effect) {
      case 'prepare':
        return await this.#prepare(job, call);
      case 'stageIn':
        return await this.#stageIn(job, ended.signal);
      case 'submit':
        return { type: 'submitted', bssId: await this.#submit(job, call) };
      case 'collectExitCode':
        return await this.#collect(job, call, signal);
      case 'stop':
        return await this.#stop(job, call);
      case 'removeDirectory':
        await call((tsi, target) =>
          tsi.execute(target.identity, removal(jobDirectory(target, job.id))),
        );
        return { type: 'removed' };
    }
  }

  async #prepare(job: Job, call: Call): Promise<News> {
    const description = parseDescription(job.description);
    const target = this.#options.target(job.targetId);
    const { submission, umask, ignoreNonZeroExitCode } = this.#incarnate(job, description, target);
    const directory = jobDirectory(target, job.id);
    await call((tsi) =>
      tsi.execute(
        target.identity,
        `umask 022; mkdir -p -- ${quote(target.jobsDirectory)} && umask ${umask} && ` +
          `mkdir -p -- ${quote(directory)} && cd -- ${quote(directory)} && rm -f ${exitCodeFile} ${abortMarker}`,
      ),
    );
    return {
      type: 'prepared',
      plan: {
        stagesIn: description.Imports.length > 0,
        waitsForClient: description.haveClientStageIn,
        executes: submission !== undefined,
        ignoreNonZeroExitCode,
        umask,
      },
      facts: {
        name: jobName(description),
        jobType: description['Job type'],
        directory: `${directory}/`,
      },
    };
  }

  async #stageIn(job: Job, signal: AbortSignal): Promise<News> {
    const { staging, target: find } = this.#options;
    const target = find(job.targetId);
    const tsi = (): Tsi => find(job.targetId).tsi();
    await staging.stage(job, 'in', { files: this.files(job, target), tsi, target }, signal);
    return { type: 'staged' };
  }

  /** Sent again after a crash, an attempt gets the id of what it started before. */
  async #submit(job: Job, call: Call): Promise<string> {
    const { attemptId } = job.run;
    if (attemptId === undefined) throw new TypeError('a job without attempt is submitted');
    return await call((tsi, target) => {
      const { submission } = this.#incarnate(job, parseDescription(job.description), target);
      if (!submission) throw new TypeError('a job with nothing to run is submitted');
      this.#unsent.delete(attemptId);
      // not cut short when the job is aborted: what it starts must become known
      const { closing: signal } = this.#options;
      return tsi.submit(target.identity, { ...submission, attemptId }, { signal });
    });
  }

  async #collect(job: Job, call: Call, signal: AbortSignal): Promise<News> {
    const first = await this.#readExitCode(job, call);
    if (first !== undefined) return { type: 'finished', exitCode: first };
    // One listing may have missed it, or have been quicker than the file.
    const listing = await this.#options.watcher.nextListing(job.targetId, signal);
    const entry = listing.get(job.run.bssId ?? '');
    if (entry && entry.state !== 'COMPLETED') return listedNews(entry) ?? { type: 'running' };
    const second = await this.#readExitCode(job, call);
    return second === undefined
      ? { type: 'failed', reason: 'The job was killed or ended abnormally: it left no exit code.' }
      : { type: 'finished', exitCode: second };
  }

  async #readExitCode(job: Job, call: Call): Promise<number | undefined> {
    return await call(async (tsi, target) => {
      const path = `${jobDirectory(target, job.id)}/${exitCodeFile}`;
      const [file] = await tsi.list(target.identity, path, 'A');
      if (!file || file.isDirectory || file.sizeBytes === 0) return undefined;
      const content = await text(tsi.read(target.identity, path, { length: 16 }));
      return /^\d{1,10}\s*$/.test(content) ? Number.parseInt(content, 10) : undefined;
    });
  }

  async #stop(job: Job, call: Call): Promise<News> {
    const { attemptId, bssId, doneMs } = job.run;
    const nothingSent =
      attemptId === undefined || (bssId === undefined && this.#unsent.delete(attemptId));
    if (doneMs === undefined && !nothingSent) {
      const id = bssId ?? (await this.#findSubmitted(job, call));
      await call((tsi, target) => tsi.abort(target.identity, id));
    }
    return { type: 'stopped' };
  }

  /**
   * Nobody knows whether the attempt reached the batch system. Sent again, it tells its id; should it
   * start only now, its script finds the marker and does nothing.
   */
  async #findSubmitted(job: Job, call: Call): Promise<string> {
    await call((tsi, target) => {
      const marker = `${jobDirectory(target, job.id)}/${abortMarker}`;
      return tsi.execute(target.identity, `: > ${quote(marker)}`);
    });
    return await this.#submit(job, call);
  }

  /** The job's directory, for itself and its owner. */
  files(job: Job, { id, identity, jobsDirectory }: Target): FileSpace {
    return new TsiFileSpace({
      root: jobDirectory({ jobsDirectory }, job.id),
      identity,
      tsi: () => this.#options.target(id).tsi(),
      umask: job.plan?.umask ?? this.#options.config.defaultUmask,
    });
  }

  #incarnate(job: Job, description: JobDescription, target: Target): Incarnation {
    return incarnate(description, idbOf(target), {
      workingDirectory: jobDirectory(target, job.id),
      userDn: job.ownerDn,
      defaultUmask: this.#options.config.defaultUmask,
    });
  }

  /** Waits its turn, and for the target; what the TSI refuses is tried a few times more. */
  #caller(job: Job, ended: AbortSignal): Call {
    const { lanes, clock, config, target } = this.#options;
    return async (work) => {
      for (let refused = 0; ; refused++) {
        try {
          return await lanes.run(
            job.targetId,
            async () => {
              const there = target(job.targetId);
              return await work(there.tsi(), there);
            },
            ended,
          );
        } catch (error) {
          if (!isRefusal(error) || refused >= config.refusedRetries) throw error;
          await clock.sleep(config.refusedDelayMs * 2 ** refused, ended);
        }
      }
    };
  }
}

/** What the batch system's word means for a job. Held jobs, and those it is not sure of, are no news. */
export function listedNews(entry: BssEntry | undefined): ListedNews | undefined {
  const where = entry?.queue === undefined ? {} : { queue: entry.queue };
  switch (entry?.state) {
    case undefined:
    case 'COMPLETED':
      return { type: 'gone' };
    case 'QUEUED':
      return { type: 'queued', ...where };
    case 'RUNNING':
      return { type: 'running', ...where };
    case 'SUSPENDED':
    case 'UNKNOWN':
      return undefined;
  }
}

export function jobDirectory(
  { jobsDirectory }: Pick<Target, 'jobsDirectory'>,
  jobId: string,
): string {
  return `${jobsDirectory.replace(/\/+$/, '')}/${jobId}`;
}

function isRefusal(error: unknown): boolean {
  return (
    error instanceof GridError && (error.code === 'TSI_FAILED' || error.code === 'TSI_PROTOCOL')
  );
}
