import { asGridError } from '#kernel/errors.js';
import type { Target } from '../target.js';
import type { Tsi } from '../tsi/tsi.js';
import { jobsOf, loseJobs, type EndsOptions } from './ends.js';
import type { Job } from './job.js';

/** A machine that was put back to what it was at an earlier moment. */
export type RevertedMachine = {
  readonly targetId: string;
  /** ms since the epoch: to when. */
  readonly toMs: number;
  readonly reason: string;
};

/**
 * Ends the jobs that the machine does not know any more, or knows otherwise than we do. Those go on of which
 * everything that was done so far is in the machine. Before it runs; may be repeated.
 */
export async function endReverted(options: EndsOptions, machine: RevertedMachine): Promise<void> {
  await loseJobs(options, machine, (job) => !isAsThen(job, machine.toMs));
}

/** Whether the machine had then whatever has been done for the job up to now. */
export function isAsThen(job: Job, toMs: number): boolean {
  const { state, run, preparedMs, createdMs, directory, stagingMs, stagedMs } = job;
  // what ends anyway is ended there, too
  if (state === 'ABORTING' || state === 'DESTROYING') return true;
  const done = [
    directory === undefined ? undefined : (preparedMs ?? createdMs),
    ...[stagingMs, stagedMs, run.number > 1 ? run.startedMs : undefined],
    ...[run.submittedMs, run.endedMs, run.swept ? run.mainMs : undefined],
    ...[run.pre?.startedMs, run.pre?.endedMs, run.post?.startedMs, run.post?.endedMs],
  ];
  return done.every((atMs) => atMs === undefined || atMs <= toMs);
}

/**
 * Makes what runs in the machine what the jobs say: ends what runs there again though its job is over, and
 * halts or lets go on what its user has halted or let go on since. As soon as the machine answers; may be
 * repeated. @throws `TSI_UNAVAILABLE`
 */
export async function tidyReverted(
  options: EndsOptions,
  { targetId, toMs }: Pick<RevertedMachine, 'targetId' | 'toMs'>,
): Promise<void> {
  for await (const job of jobsOf(options, targetId)) {
    const target = options.targets.find(targetId);
    if (!target) return;
    for (const call of callsFor(job, toMs))
      try {
        await call(target);
      } catch (error) {
        if (asGridError(error)?.code !== 'TSI_FAILED') throw error;
        options.log.info({ jobId: job.id, err: error }, 'a job of a reverted machine was left');
      }
  }
}

type Call = (target: Target) => Promise<unknown>;

function callsFor({ state, run }: Job, toMs: number): Call[] {
  const { bssId, pid, submittedMs = Infinity, startedMs, pre, post, node } = run;
  const nodeOf = (target: Target): Tsi =>
    (node === undefined ? undefined : target.loginNodes?.()?.on(node)) ?? target.tsi();
  const kill =
    (id: string): Call =>
    (target) =>
      nodeOf(target).killOnLoginNode(target.identity, id);
  if (startedMs > toMs) return [];
  const isOver = state === 'DONE';
  const ranThen = (from: number, until = run.doneMs ?? Infinity): boolean =>
    from <= toMs && until > toMs;
  const commands = [pre, post].flatMap((command) =>
    isOver && command?.pid !== undefined && ranThen(command.startedMs, command.endedMs)
      ? [kill(command.pid)]
      : [],
  );
  if (bssId === undefined || !ranThen(submittedMs, run.endedMs)) return commands;
  if (isOver)
    return [
      ...commands,
      pid === undefined ? (target) => target.tsi().abort(target.identity, bssId) : kill(pid),
    ];
  if (state === 'PAUSED') return [(target) => target.tsi().hold(target.identity, bssId)];
  if (run.heldFrom === undefined) return [];
  return [(target) => target.tsi().resume(target.identity, bssId)];
}
