import type { Duplex } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { z } from 'zod';
import { errorText, GridError } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import { destroySoon } from '#kernel/net/destroy-soon.js';
import { linkSignals } from '#kernel/net/deadline.js';
import type { Job, JobEngine, TargetSystems } from '#xnjs/index.js';

/** Bounds on forwarded connections. */
export const ForwardingConfig = z.strictObject({
  /** Open at once, of each user and of all. */
  perUser: z.int().min(0).default(32),
  total: z.int().min(0).default(512),
  /** Without a byte in either direction for so long a connection ends. */
  idleSeconds: z.number().positive().max(604_800).default(3_600),
  /** However busy, it ends after this time. */
  maxSeconds: z.number().positive().max(604_800).default(86_400),
});
export type ForwardingConfig = z.output<typeof ForwardingConfig>;

export type ForwardingOptions = {
  readonly jobs: Pick<JobEngine, 'onChange'>;
  readonly targets: Pick<TargetSystems, 'find'>;
  readonly config: ForwardingConfig;
};

type Wish = {
  readonly service: string;
  readonly loginNode?: string | undefined;
  /** Whose it is. */
  readonly dn: string;
  /** The client has gone. */
  readonly signal: AbortSignal;
};

/** Reached, and waiting for its client. */
export type Forwarding = {
  /** Moves bytes until both sides have said all, or one of them fails. */
  join(client: Duplex, log: Log): Promise<void>;
};

type Entry = { readonly jobId: string; readonly dn: string; readonly end: AbortController };

/** The forwarded connections of this server: bounded, watched, and gone with their job. */
export class ForwardingConnections implements Disposable {
  readonly #options: ForwardingOptions;
  readonly #open = new Set<Entry>();
  readonly #ignore: () => void;

  constructor(options: ForwardingOptions) {
    this.#options = options;
    this.#ignore = options.jobs.onChange(({ id, state }) => {
      if (state !== 'DESTROYING' && state !== 'DESTROYED') return;
      this.#end(({ jobId }) => jobId === id, 'the job is destroyed');
    });
  }

  get size(): number {
    return this.#open.size;
  }

  /** @throws `LIMIT_REACHED`; `CONFLICT` no such target system any more; `TSI_UNAVAILABLE`, `TSI_FAILED` */
  async open(job: Job, { service, loginNode, dn, signal }: Wish): Promise<Forwarding> {
    this.#checkLimits(dn);
    const target = this.#options.targets.find(job.targetId);
    if (!target?.forward)
      throw new GridError('CONFLICT', 'the target system of the job is gone', { jobId: job.id });
    const entry = { jobId: job.id, dn, end: new AbortController() };
    this.#open.add(entry);
    const facts = { jobId: job.id, dn, service };
    try {
      using until = linkSignals(signal, entry.end.signal);
      const far = await target.forward(service, until.signal, loginNode);
      if (until.signal.aborted) destroySoon(far);
      until.signal.throwIfAborted();
      // the client may leave before it is joined
      const abandon = (): void => this.#abandon(entry, far);
      signal.addEventListener('abort', abandon, { once: true });
      return {
        join: async (client, log) => {
          signal.removeEventListener('abort', abandon);
          await this.#join(entry, client, far, log.child(facts));
        },
      };
    } catch (error) {
      this.#open.delete(entry);
      throw error;
    }
  }

  [Symbol.dispose](): void {
    this.#ignore();
    this.#end(() => true, 'the server closes');
  }

  #checkLimits(dn: string): void {
    const { perUser, total } = this.#options.config;
    const mine = [...this.#open].filter((entry) => entry.dn === dn).length;
    if (mine < perUser && this.#open.size < total) return;
    const text = mine < perUser ? `${total} at this server` : `${perUser} of each user`;
    const details = { retryAfterSeconds: 30 };
    throw new GridError('LIMIT_REACHED', `too many forwarded connections: ${text}`, details);
  }

  #end(which: (entry: Entry) => boolean, reason: string): void {
    const ended = [...this.#open].filter(which);
    // in a later turn: news of a job may come from the session that carries its connections (destroySoon)
    setImmediate(() => {
      for (const entry of ended) entry.end.abort(new Error(reason));
    });
  }

  #abandon(entry: Entry, far: Duplex): void {
    this.#open.delete(entry);
    destroySoon(far);
  }

  async #join(entry: Entry, client: Duplex, far: Duplex, log: Log): Promise<void> {
    const { idleSeconds, maxSeconds } = this.#options.config;
    const startedMs = performance.now();
    const { signal } = entry.end;
    let activeMs = startedMs;
    const bytes = { sent: 0, received: 0 };
    const count = (from: Duplex, name: keyof typeof bytes): void => {
      from.on('data', (chunk: Buffer) => {
        bytes[name] += chunk.length;
        activeMs = performance.now();
      });
    };
    const watch = setInterval(
      () => {
        const now = performance.now();
        if (now - activeMs >= idleSeconds * 1_000) entry.end.abort(new Error('idle'));
        if (now - startedMs >= maxSeconds * 1_000) entry.end.abort(new Error('over its time'));
      },
      Math.min(idleSeconds, maxSeconds) * 250,
    );
    log.info('forwarding');
    let reason = 'both sides have ended';
    try {
      const both = [pipeline(client, far, { signal }), pipeline(far, client, { signal })];
      count(client, 'sent');
      count(far, 'received');
      await Promise.all(both);
    } catch (error) {
      reason = errorText(signal.aborted ? signal.reason : error);
    } finally {
      clearInterval(watch);
      destroySoon(client);
      destroySoon(far);
      this.#open.delete(entry);
      log.info({ ...bytes, ms: Math.round(performance.now() - startedMs), reason }, 'forwarded');
    }
  }
}
