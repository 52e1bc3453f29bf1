import { formatDate } from '#kernel/clock.js';
import { consumedTime, jobStatus, type Job } from '#xnjs/index.js';
import type { Job as JobAnswer, Rendered } from './answers.js';
import { hrefs, linksFrom, type Links } from './links.js';
import { ownedProperties } from './properties.js';

export const workspaceSuffix = '-uspace';

type Text = { readonly baseUrl: string; readonly text: string };
/** Of records that will not look otherwise a second later. */
const texts = new WeakMap<Job, Text>();

/** A job as JSON: clients ask for one that is over again and again. */
export function jobText(job: Job, baseUrl: string, nowMs: number): string {
  const known = texts.get(job);
  if (known?.baseUrl === baseUrl) return known.text;
  const text = JSON.stringify(renderJob(job, linksFrom(baseUrl), nowMs));
  if (job.run.doneMs !== undefined) texts.set(job, { baseUrl, text });
  return text;
}

/** A job as `GET /jobs/{id}` shows it (unicore-rest 3.5.2): numbers as text, links whatever its state. */
export function renderJob(job: Job, links: Links, nowMs: number): Rendered<typeof JobAnswer> {
  const { run } = job;
  const self = links.job(job.id);
  const action = (name: string, description: string): { href: string; description: string } => ({
    href: `${self}/actions/${name}`,
    description,
  });
  return {
    ...ownedProperties(job),
    name: job.name,
    jobType: job.jobType,
    status: jobStatus(job),
    statusMessage: run.result?.message ?? '',
    submissionTime: formatDate(job.createdMs),
    queue: run.queue ?? 'N/A',
    batchSystemID: run.bssId ?? 'N/A',
    ...(run.exitCode !== undefined && { exitCode: String(run.exitCode) }),
    ...(run.progress !== undefined && { progress: String(run.progress) }),
    consumedTime: consumedTime(job, nowMs),
    submissionPreferences: job.preferences,
    log: job.log,
    _links: hrefs({
      self,
      details: `${self}/details`,
      submitted: `${self}/submitted`,
      'action:start': action('start', 'Start'),
      'action:abort': action('abort', 'Abort'),
      'action:restart': action('restart', 'Restart'),
      'action:pause': action('pause', 'Pause'),
      'action:resume': action('resume', 'Resume'),
      forwarding: `${self}/forward-port`,
      workingDirectory: links.storage(job.id + workspaceSuffix),
      parentTSS: links.site(job.targetId),
    }),
  };
}
