import { formatDate } from '#kernel/clock.js';
import { consumedTime, jobStatus, type Job } from '#xnjs/index.js';
import type { Job as JobAnswer, Rendered } from './answers.js';
import { hrefs, linksFrom, type Links } from './links.js';
import { ownedProperties } from './properties.js';

export const workspaceSuffix = '-uspace';

/** A job for one address, around the only part that changes by itself. */
type Text = { readonly baseUrl: string; readonly before: string; readonly after: string };
/** By record: a change makes another one. */
const texts = new WeakMap<Job, Text>();

/** A job as JSON: clients ask for the same one again and again. */
export function jobText(job: Job, baseUrl: string, nowMs: number): string {
  let text = texts.get(job);
  if (text?.baseUrl !== baseUrl) {
    text = toText(job, baseUrl);
    texts.set(job, text);
  }
  return `${text.before}${JSON.stringify(consumedTime(job, nowMs))}${text.after}`;
}

function toText(job: Job, baseUrl: string): Text {
  const before = JSON.stringify(renderState(job)).slice(0, -1);
  const after = JSON.stringify(renderRest(job, linksFrom(baseUrl))).slice(1);
  return { baseUrl, before: `${before},"consumedTime":`, after: `,${after}` };
}

/** A job as `GET /jobs/{id}` shows it (unicore-rest 3.5.2): numbers as text, links whatever its state. */
export function renderJob(job: Job, links: Links, nowMs: number): Rendered<typeof JobAnswer> {
  return {
    ...renderState(job),
    consumedTime: consumedTime(job, nowMs),
    ...renderRest(job, links),
  };
}

function renderState(job: Job): Omit<Rendered<typeof JobAnswer>, 'consumedTime' | keyof Rest> {
  const { run } = job;
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
  };
}

type Rest = Pick<Rendered<typeof JobAnswer>, 'submissionPreferences' | 'log' | '_links'>;

function renderRest(job: Job, links: Links): Rest {
  const self = links.job(job.id);
  const action = (name: string, description: string): { href: string; description: string } => ({
    href: `${self}/actions/${name}`,
    description,
  });
  return {
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
