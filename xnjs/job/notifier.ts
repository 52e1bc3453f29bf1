import type { Clock } from '#kernel/clock.js';
import { errorText, GridError } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import type { JobConfig } from './config.js';
import type { Job } from './job.js';
import type { NoticeSender } from './notice-sender.js';
import type { Notice } from './notices.js';

export type NotifierOptions = {
  readonly sender: NoticeSender;
  readonly clock: Clock;
  readonly log: Log;
  readonly config: JobConfig['notifications'];
  /** The job without the notice, and what became of it for its log. @returns the newest version */
  readonly done: (jobId: string, noticeId: string, text: string) => Promise<Job | undefined>;
};

/**
 * Sends what the jobs have to tell: of each job one after another, in order. What is not sent when the
 * server dies lies with the job, and is sent by the next.
 */
export class Notifier implements AsyncDisposable {
  readonly #options: NotifierOptions;
  readonly #busy = new Map<string, Promise<void>>();
  readonly #closing = new AbortController();
  readonly #waiting: (() => void)[] = [];
  #active = 0;

  constructor(options: NotifierOptions) {
    this.#options = options;
  }

  /** Called with each new version of a job. */
  take(job: Job): void {
    if (!job.notices?.length || this.#busy.has(job.id) || this.#closing.signal.aborted) return;
    const work = this.#send(job)
      .catch((error: unknown) => {
        if (!this.#closing.signal.aborted)
          this.#options.log.error({ jobId: job.id, err: error }, 'a notification is stuck');
      })
      .finally(() => this.#busy.delete(job.id));
    this.#busy.set(job.id, work);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing.abort(new GridError('SITE_UNAVAILABLE', 'the job engine is closing'));
    for (const go of this.#waiting.splice(0)) go();
    this.#options.sender[Symbol.dispose]();
    await Promise.allSettled(this.#busy.values());
  }

  async #send(job: Job): Promise<void> {
    let latest: Job | undefined = job;
    for (;;) {
      const [notice] = latest?.notices ?? [];
      const url: string | undefined = latest?.plan?.notify?.url;
      if (!latest || !notice || url === undefined) return;
      const text = await this.#deliver(latest, url, notice);
      latest = await this.#options.done(job.id, notice.id, text);
    }
  }

  /** @returns what became of it */
  async #deliver({ id: jobId, ownerDn }: Job, url: string, { body }: Notice): Promise<string> {
    const { clock, config, log, sender } = this.#options;
    const { signal } = this.#closing;
    const what = `Notification of ${body['status'] ?? body['bssStatus'] ?? ''}`;
    for (let failures = 1; ; failures++) {
      try {
        await this.#inTurn(() => sender.send({ url, ownerDn, body }, signal));
        return `${what} sent.`;
      } catch (error) {
        signal.throwIfAborted();
        const reason = errorText(error).slice(0, 300);
        const hopeless = error instanceof GridError && error.code === 'BAD_REQUEST';
        if (!hopeless && failures < config.attempts) {
          await clock.sleep(
            Math.min(config.retryMaxMs, config.retryFirstMs * 2 ** (failures - 1)),
            signal,
          );
          continue;
        }
        log.info({ jobId, err: reason }, 'a notification could not be delivered');
        return `${what} could not be delivered: ${reason}`;
      }
    }
  }

  async #inTurn(work: () => Promise<void>): Promise<void> {
    if (this.#active >= this.#options.config.atOnce)
      await new Promise<void>((go) => this.#waiting.push(go));
    else this.#active++;
    try {
      this.#closing.signal.throwIfAborted();
      await work();
    } finally {
      const next = this.#waiting.shift();
      // who waits takes the place that is given back
      if (next) next();
      else this.#active--;
    }
  }
}
