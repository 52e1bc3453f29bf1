import { quote } from '../incarnation/quote.js';
import { abortMarker } from '../incarnation/script.js';
import type { CommandRun } from './job.js';
import { callThere, chooseNode } from './on-node.js';
import { jobDirectory, pidFile } from './runs.js';
import { launch, submit } from './submit.js';
import type { News, Task } from './work.js';

/** Ends whatever runs for a job, and learns first what that is. */
export async function stop(task: Task): Promise<News> {
  const { job, options, signal } = task;
  if (job.run.swept || job.plan?.sweep !== undefined)
    await options.children.stop(job, job.state === 'DESTROYING' ? 'destroy' : 'abort', signal);
  if (job.run.doneMs === undefined) {
    if (job.run.pre) await stopCommand(task, 'pre', job.run.pre);
    await stopMain(task);
    if (job.run.post) await stopCommand(task, 'post', job.run.post);
  }
  return { type: 'stopped' };
}

async function stopMain(task: Task): Promise<void> {
  const { job, call, unsent } = task;
  const { attemptId, bssId, endedMs } = job.run;
  if (attemptId === undefined || endedMs !== undefined) return;
  if (bssId === undefined && unsent.delete(attemptId)) return;
  if (bssId === undefined) await mark(task);
  const found = bssId === undefined ? await submit(task) : undefined;
  const pid = job.run.pid ?? found?.pid;
  const id = bssId ?? found?.bssId ?? '';
  if (pid !== undefined) await kill(task, pid);
  else if (!job.plan?.allocates || job.run.granted)
    await call((tsi, { identity }) => tsi.abort(identity, id));
  else await stopAllocating(task);
}

async function stopCommand(
  task: Task,
  which: 'pre' | 'post',
  { attemptId, pid, endedMs }: CommandRun,
): Promise<void> {
  const { job, unsent } = task;
  if (endedMs !== undefined || (pid === undefined && unsent.delete(attemptId))) return;
  if (pid === undefined) await mark(task);
  const state = which === 'pre' ? ('PRECOMMAND' as const) : ('POSTCOMMAND' as const);
  const found = pid ?? (await launch({ ...task, job: { ...job, state } })).pid;
  await kill(task, found);
}

/** What runs on a login node. Its node was stored before it was started. */
async function kill(task: Task, pid: string): Promise<void> {
  await callThere(
    task,
    await chooseNode(task),
  )((tsi, { identity }) => tsi.killOnLoginNode(identity, pid));
}

/**
 * Nobody knows whether the attempt reached the target. Sent again, it tells its id; should it start only
 * now, its script finds the marker and does nothing.
 */
async function mark({ job, call }: Task): Promise<void> {
  await call((tsi, target) => {
    const marker = `${jobDirectory(target, job)}/${abortMarker}`;
    return tsi.execute(target.identity, `: > ${quote(marker)}`);
  });
}

/** The request is a process of the login node, whose pid the TSI has left in a file. */
async function stopAllocating(task: Task): Promise<void> {
  const { job } = task;
  await callThere(
    task,
    await chooseNode(task),
  )(async (tsi, target) => {
    const directory = quote(jobDirectory(target, job));
    const told = await tsi.execute(target.identity, `cat ${directory}/${pidFile} 2>/dev/null; :`);
    const pid = /^\s*([1-9]\d{0,9})\s*$/.exec(told)?.[1];
    if (pid !== undefined) await tsi.killOnLoginNode(target.identity, pid);
  });
}
