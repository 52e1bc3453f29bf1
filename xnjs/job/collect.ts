import { text } from 'node:stream/consumers';
import { commandDirectories, exitCodeFile } from '../incarnation/script.js';
import { commandOf } from './job.js';
import { listedNews, placeOf, processPlace } from './listed.js';
import { allocationFile, jobDirectory } from './runs.js';
import type { Place } from './watcher.js';
import type { News, Task } from './work.js';

const noExitCode = 'it left no exit code.';

/** How the main run ended. */
export async function collect(task: Task): Promise<News> {
  const { job, options, signal } = task;
  const first = await readExitCode(task, '.');
  if (first !== undefined) return { type: 'finished', exitCode: first };
  // One listing may have missed it, or have been quicker than the file.
  const { place = 'batch', id = '' } = placeOf(job) ?? {};
  const listing = await options.watcher.nextListing(job.targetId, place, signal);
  const entry = listing.get(id);
  if (entry && entry.state !== 'COMPLETED') return listedNews(entry) ?? { type: 'running' };
  const exitCode = await readSlowly(task, '.');
  if (exitCode !== undefined) return { type: 'finished', exitCode };
  const details = await detailsOf(task);
  return {
    type: 'failed',
    reason: `The job was killed or ended abnormally: ${noExitCode}`,
    log: details === '' ? [] : [`Batch system details: ${details}`],
  };
}

/** Until the pre- or post-command has ended, and how. */
export async function awaitCommand(task: Task): Promise<News> {
  const { job } = task;
  const which = commandOf(job);
  const { pid = '' } = job.run[which] ?? {};
  const directory = commandDirectories[which];
  await gone(task, processPlace(job), pid);
  const exitCode = await readSlowly(task, directory);
  return exitCode === undefined
    ? { type: 'failed', reason: `The ${which}-command was killed: ${noExitCode}` }
    : { type: 'commandEnded', exitCode };
}

/** Until the batch system has given what the job asks for. */
export async function awaitAllocation(task: Task): Promise<News> {
  const { signal, options } = task;
  const { clock, config } = options;
  for (;;) {
    const id = (await readFile(task, allocationFile, 256))?.trim();
    if (id !== undefined && /^\S+$/.test(id)) return { type: 'allocated', bssId: id };
    const exitCode = await readExitCode(task, '.');
    if (exitCode !== undefined)
      return { type: 'failed', reason: `The allocation was not made: exit code ${exitCode}.` };
    await clock.sleep(config.statusMaxIntervalMs, signal);
  }
}

/** The first look is now, for most commands are short. */
async function gone({ job, options, signal }: Task, place: Place, id: string): Promise<void> {
  for (let soon = true; ; soon = false) {
    const listing = await options.watcher.nextListing(job.targetId, place, signal, { soon });
    if (!listing.has(id)) return;
  }
}

/** Files on a shared file system may come later than the word that their writer has ended. */
async function readSlowly(task: Task, directory: string): Promise<number | undefined> {
  const { clock, config } = task.options;
  const endMs = clock.now() + config.fileSystemGraceMs;
  for (;;) {
    const exitCode = await readExitCode(task, directory);
    if (exitCode !== undefined || clock.now() >= endMs) return exitCode;
    await clock.sleep(Math.min(config.statusMaxIntervalMs, config.fileSystemGraceMs), task.signal);
  }
}

async function readExitCode(task: Task, directory: string): Promise<number | undefined> {
  const content = await readFile(task, `${directory}/${exitCodeFile}`, 16);
  return content !== undefined && /^\d{1,10}\s*$/.test(content)
    ? Number.parseInt(content, 10)
    : undefined;
}

async function readFile({ job, call }: Task, name: string, length: number) {
  return await call(async (tsi, target) => {
    const path = `${jobDirectory(target, job)}/${name.replace(/^\.\//, '')}`;
    const [file] = await tsi.list(target.identity, path, 'A');
    if (!file || file.isDirectory || file.sizeBytes === 0) return undefined;
    return await text(tsi.read(target.identity, path, { length }));
  });
}

/** For people; what cannot be had is left out. */
async function detailsOf({ job, call, signal }: Task): Promise<string> {
  const { bssId } = job.run;
  if (bssId === undefined || job.plan?.onLoginNode) return '';
  try {
    const details = await call((tsi, { identity }) => tsi.details(identity, bssId));
    return details.trim().slice(0, 2_000);
  } catch (error) {
    if (signal.aborted) throw error;
    return '';
  }
}
