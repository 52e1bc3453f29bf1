import type { Clock } from '#kernel/clock.js';
import { errorText } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import { quote } from '../incarnation/quote.js';
import type { Target, Targets } from '../target.js';
import type { Job } from './job.js';
import { jobDirectory } from './runs.js';

/** File of a job's directory in which it says how far it is: a number from 0 to 1 (tsi-xnjs 4.1). */
export const progressFile = '.UNICORE_PROGRESS_INDICATION';

export type ProgressOptions = {
  readonly targets: Targets;
  readonly clock: Clock;
  readonly log: Log;
  readonly intervalMs: number;
  readonly onProgress: (jobId: string, run: number, progress: number) => Promise<void>;
};

type Watched = { readonly job: Pick<Job, 'id' | 'parentId'>; readonly run: number; told?: number };
type Round = { readonly jobs: Map<string, Watched>; readonly ending: AbortController };

/** So many jobs are asked about by one script, whose command line must not become too long. */
const jobsAtOnce = 200;
const longestLine = 32;

/**
 * Reads how far running jobs are. People look at it, so it may be as old as the interval (10 s); one script
 * for each target system and 200 jobs there is all that it costs, whether they have such a file or not.
 */
export class ProgressReader implements Disposable {
  readonly #options: ProgressOptions;
  readonly #rounds = new Map<string, Round>();

  constructor(options: ProgressOptions) {
    this.#options = options;
  }

  watch({ id, parentId, targetId, run }: Job): void {
    const round = this.#rounds.get(targetId) ?? this.#start(targetId);
    if (round.jobs.get(id)?.run === run.number) return;
    const job = { id, ...(parentId !== undefined && { parentId }) };
    round.jobs.set(id, {
      ...{ job, run: run.number },
      ...(run.progress !== undefined && { told: run.progress }),
    });
  }

  unwatch({ id, targetId }: Job): void {
    const round = this.#rounds.get(targetId);
    if (!round?.jobs.delete(id) || round.jobs.size > 0) return;
    this.#rounds.delete(targetId);
    round.ending.abort();
  }

  [Symbol.dispose](): void {
    for (const { ending } of this.#rounds.values()) ending.abort();
    this.#rounds.clear();
  }

  #start(targetId: string): Round {
    const round: Round = { jobs: new Map(), ending: new AbortController() };
    this.#rounds.set(targetId, round);
    void this.#ask(targetId, round);
    return round;
  }

  async #ask(targetId: string, { jobs, ending: { signal } }: Round): Promise<void> {
    const { clock, intervalMs, targets, log } = this.#options;
    for (;;) {
      try {
        await clock.sleep(intervalMs, signal);
      } catch {
        return; // no job runs there any more
      }
      try {
        const target = targets.find(targetId);
        const watched = [...jobs.values()];
        for (let at = 0; target && at < watched.length; at += jobsAtOnce)
          await this.#read(target, watched.slice(at, at + jobsAtOnce), signal);
      } catch (error) {
        log.debug({ vmId: targetId, err: errorText(error) }, 'progress of jobs could not be read');
      }
    }
  }

  async #read(target: Target, watched: readonly Watched[], signal: AbortSignal): Promise<void> {
    const directories = watched.map(({ job }) => jobDirectory(target, job));
    const script = [
      `for dir in ${directories.map(quote).join(' ')}; do`,
      `file="$dir"/${progressFile}`,
      '[ -f "$file" ] || continue',
      `printf '%s %s\\n' "\${dir##*/}" "$(head -n 1 -- "$file" 2>/dev/null | head -c ${longestLine} | tr -c '0-9.\\n ' x)"`,
      'done',
    ].join('\n');
    const printed = await target.tsi().execute(target.identity, script, { signal });
    const found = parseProgress(printed);
    for (const each of watched) {
      const progress = found.get(each.job.id);
      if (progress === undefined || progress === each.told) continue;
      await this.#options.onProgress(each.job.id, each.run, progress);
      each.told = progress;
    }
  }
}

/** Lines `job number`; a job that says anything else says nothing. */
export function parseProgress(text: string): Map<string, number> {
  const found = new Map<string, number>();
  for (const line of text.split('\n')) {
    const [, id, written] =
      /^([0-9a-f-]{36}) +(\d{1,8}|\d{0,8}\.\d{1,16}|\d{1,8}\.) *$/.exec(line) ?? [];
    const progress = Number(written);
    if (id !== undefined && progress >= 0 && progress <= 1)
      found.set(id, Math.round(progress * 10_000) / 10_000);
  }
  return found;
}
