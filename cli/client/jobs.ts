import { basename } from 'node:path';
import { pipeline } from 'node:stream/promises';
import type { z } from 'zod';
import { asGridError } from '#kernel/errors.js';
import { linkSignals } from '#kernel/net/deadline.js';
import { followEvents } from './events.js';
import { printJson, printResult, printRows, tell } from './print.js';
import type { Job as JobAnswer } from '#targetsystem/rest/answers.js';
import type { Session } from './profile.js';
import { download, filePath, upload } from './files.js';
import { deleteAndWait, idOf, listPaths, pathOf, pollUntil } from './resources.js';
import { createSite, deleteSites, type NewSite } from './sites.js';

type Job = z.output<typeof JobAnswer>;

const isOver = ({ status }: Job): boolean => status === 'SUCCESSFUL' || status === 'FAILED';

async function readJob({ service }: Session, jobId: string, signal?: AbortSignal): Promise<Job> {
  const { body } = await service.call('GET', '/jobs/:jobId', { jobId }, signal && { signal });
  return body;
}

export async function listJobs(
  session: Session,
  { tag, num }: { tag?: string; num: number },
  asJson: boolean,
): Promise<void> {
  const rows = [];
  const query = tag === undefined ? {} : { tags: tag };
  for await (const path of listPaths(session.client, `${session.core}/jobs`, query)) {
    if (rows.length === num) break;
    const { name, status, exitCode, submissionTime } = await readJob(session, idOf(path));
    rows.push({ id: idOf(path), status, exit: exitCode, submitted: submissionTime, name });
  }
  printRows(rows, ['id', 'status', 'exit', 'submitted', 'name'], asJson);
}

export async function showJob(session: Session, id: string): Promise<void> {
  printJson(await readJob(session, id));
}

export async function showLog(session: Session, id: string, asJson: boolean): Promise<void> {
  const { log } = await readJob(session, id);
  if (asJson) {
    printJson(log);
    return;
  }
  process.stdout.write(log.map((line) => `${line}\n`).join(''));
}

export async function actOnJobs(
  { service }: Session,
  action: 'start' | 'abort' | 'restart',
  ids: readonly string[],
): Promise<void> {
  for (const jobId of ids)
    await service.call('POST', '/jobs/:jobId/actions/:action', { jobId, action });
}

export async function deleteJobs(
  { client, core }: Session,
  ids: readonly string[],
  signal: AbortSignal,
): Promise<void> {
  for (const id of ids) await deleteAndWait(client, `${core}/jobs/${id}`, signal);
}

/** Waits for the end of a job. @returns the exit code that the command should have */
export async function waitForJob(
  session: Session,
  id: string,
  signal: AbortSignal,
): Promise<number> {
  let told = '';
  const read = async (): Promise<Job> => {
    const job = await readJob(session, id, signal);
    if (job.status !== told) tell(`job ${id}: ${job.status}`);
    told = job.status;
    return job;
  };
  const job = await watchUntilOver(session, id, read, signal);
  if (job.status === 'SUCCESSFUL') return 0;
  tell(job.statusMessage);
  const code = Number(job.exitCode);
  return code >= 1 && code <= 255 ? code : 1;
}

/** Looks at a job whenever it is told that it has changed; where nobody tells, again and again. */
async function watchUntilOver(
  session: Session,
  id: string,
  read: () => Promise<Job>,
  signal: AbortSignal,
): Promise<Job> {
  const done = new AbortController();
  using until = linkSignals(signal, done.signal);
  try {
    for await (const { event, data } of followEvents(session, { types: 'job' }, until.signal)) {
      if (event === 'job' && data.id !== id) continue;
      const job = await read();
      if (isOver(job)) return job;
    }
    throw signal.reason;
  } catch (error) {
    const code = asGridError(error)?.code;
    if (code === undefined || code === 'JOB_UNKNOWN' || signal.aborted) throw error;
    return await pollUntil(read, isOver, signal); // an older server, or too many streams
  } finally {
    done.abort();
  }
}

export type RunOptions = NewSite & {
  readonly version?: string;
  readonly executable?: string;
  readonly param: readonly string[];
  readonly resource: readonly string[];
  readonly input: readonly string[];
  readonly output: readonly string[];
  readonly site?: string;
  readonly image?: string;
  readonly keep?: true;
  readonly detach?: true;
  readonly asJson: boolean;
};

/**
 * Runs a job: input files up, wait, output down, its standard output to ours.
 * @returns the job's exit code
 */
export async function runJob(
  session: Session,
  application: string | undefined,
  words: readonly string[],
  options: RunOptions,
  signal: AbortSignal,
): Promise<number> {
  const { image, keep, detach } = options;
  const site =
    image === undefined ? options.site : await createSite(session, image, options, signal);
  try {
    const id = await submit(session, describe(application, words, options), site);
    for (const file of options.input) await uploadInput(session, id, file, signal);
    if (options.input.length > 0) await actOnJobs(session, 'start', [id]);
    if (detach) {
      printResult({ id }, id, options.asJson);
      return 0;
    }
    const code = await waitForJob(session, id, signal);
    if (options.asJson) printJson({ id, ...(await readJob(session, id, signal)) });
    else await printOutput(session, id, signal);
    await collect(session, id, options.output, signal);
    return code;
  } finally {
    if (site !== undefined && image !== undefined && !keep && !detach)
      await deleteSites(session, [site], signal);
  }
}

function describe(
  application: string | undefined,
  words: readonly string[],
  { version, executable, param, resource, input, tag = [] }: RunOptions,
): Record<string, unknown> {
  return {
    ...(application !== undefined && { ApplicationName: application }),
    ...(version !== undefined && { ApplicationVersion: version }),
    ...(executable !== undefined && { Executable: executable }),
    Arguments: words,
    Parameters: assignments(param),
    Resources: assignments(resource),
    haveClientStageIn: input.length > 0 ? 'true' : 'false',
    Tags: tag,
  };
}

function assignments(pairs: readonly string[]): Record<string, string> {
  return Object.fromEntries(
    pairs.map((pair) => {
      const [name = '', value = ''] = pair.split(/=(.*)/s, 2);
      return [name, value];
    }),
  );
}

async function submit(
  { service }: Session,
  job: Record<string, unknown>,
  siteId: string | undefined,
): Promise<string> {
  const answer =
    siteId === undefined
      ? await service.call('POST', '/jobs', job)
      : await service.call('POST', '/sites/:siteId/jobs', { ...job, siteId });
  const id = idOf(pathOf(answer));
  tell(`job ${id} submitted`);
  return id;
}

/** `local` or `local:name`; the job's directory is made by the job, which may still be on its way. */
async function uploadInput(
  session: Session,
  jobId: string,
  file: string,
  signal: AbortSignal,
): Promise<void> {
  const [local = '', name = basename(local)] = file.split(/:(.*)/s, 2);
  const storageId = `${jobId}-uspace`;
  const read = async (): Promise<string | undefined> => {
    const wish = { storageId, fields: 'resourceStatus' };
    return (await session.service.call('GET', '/storages/:storageId', wish, { signal })).body
      .resourceStatus;
  };
  await pollUntil(read, (status) => status === 'READY', signal);
  await upload(session, local, { storageId, path: `/${name}` }, signal);
}

/** Standard output and error of the job become ours. */
async function printOutput(session: Session, jobId: string, signal: AbortSignal): Promise<void> {
  const storageId = `${jobId}-uspace`;
  for (const [name, into] of [
    ['stdout', process.stdout],
    ['stderr', process.stderr],
  ] as const) {
    const address = session.service.address(filePath, { storageId, path: `/${name}` });
    const answer = await session.client.download(address, { signal }).catch(() => undefined);
    if (answer) await pipeline(answer.body, into, { end: false, signal }); // a job that never ran has none
  }
}

/** Files are fetched: `name` or `name:local`. */
async function collect(
  session: Session,
  jobId: string,
  files: readonly string[],
  signal: AbortSignal,
): Promise<void> {
  const storageId = `${jobId}-uspace`;
  for (const file of files) {
    const [name = '', local = basename(name)] = file.split(/:(.*)/s, 2);
    await download(session, { storageId, path: `/${name}` }, local, signal);
  }
}
