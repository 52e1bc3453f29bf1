import type { Duplex } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { z } from 'zod';
import { errorText, GridError } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import { destroySoon } from '#kernel/net/destroy-soon.js';
import { linkSignals } from '#kernel/net/deadline.js';
import { watchPermission, type Permission } from './permission.js';

/** Bounds on connections that are carried. */
export const CarryingConfig = z.strictObject({
  /** Open at once, of each user and of all. */
  perUser: z.int().min(0).default(32),
  total: z.int().min(0).default(512),
  /** Without a byte in either direction for so long a connection ends. */
  idleSeconds: z.number().positive().max(604_800).default(3_600),
  /** However busy, it ends after this time. */
  maxSeconds: z.number().positive().max(604_800).default(86_400),
  /** How often it is asked whether its client may have it. */
  recheckSeconds: z.number().positive().max(3_600).default(15),
});
export type CarryingConfig = z.output<typeof CarryingConfig>;

type Wish = {
  /** The job or target system that it belongs to. */
  readonly subject: string;
  /** Whose it is. */
  readonly dn: string;
  /** What else the log tells. */
  readonly facts: Readonly<Record<string, unknown>>;
  /** Asked again while it is open. */
  readonly permission: Permission;
  /** The client has gone. */
  readonly signal: AbortSignal;
};

/** Reached, and waiting for its client. */
export type Carried = {
  /** Moves bytes until both sides have said all, or one of them fails. */
  join(client: Duplex, log: Log): Promise<void>;
};

type Entry = {
  readonly subject: string;
  readonly dn: string;
  readonly permission: Permission;
  readonly end: AbortController;
};

/** Connections of clients with something near a job or a machine: bounded, watched, and gone with that. */
export class CarriedConnections implements Disposable {
  readonly #what: string;
  readonly #config: CarryingConfig;
  readonly #open = new Set<Entry>();
  #ignore = (): void => undefined;

  /** @param what one of them is, for messages: `forwarded connection` */
  constructor(what: string, config: CarryingConfig) {
    this.#what = what;
    this.#config = config;
  }

  get size(): number {
    return this.#open.size;
  }

  /** @throws `LIMIT_REACHED`; what `connect` throws */
  async open(
    { subject, dn, facts, permission, signal }: Wish,
    connect: (signal: AbortSignal) => Promise<Duplex>,
  ): Promise<Carried> {
    this.#checkLimits(dn);
    const entry = { subject, dn, permission, end: new AbortController() };
    this.#open.add(entry);
    try {
      using until = linkSignals(signal, entry.end.signal);
      const far = await connect(until.signal);
      if (until.signal.aborted) destroySoon(far);
      until.signal.throwIfAborted();
      // the client may leave before it is joined
      const abandon = (): void => this.#abandon(entry, far);
      signal.addEventListener('abort', abandon, { once: true });
      return {
        join: async (client, log) => {
          signal.removeEventListener('abort', abandon);
          await this.#join(entry, client, far, log.child({ dn, ...facts }));
        },
      };
    } catch (error) {
      this.#open.delete(entry);
      throw error;
    }
  }

  /** Those of a job or target system that is no more. */
  endOf(subject: string, reason: string): void {
    this.#end((entry) => entry.subject === subject, reason);
  }

  /** @param ignore ends the news by which connections end, when no more are carried */
  follow(ignore: () => void): void {
    this.#ignore = ignore;
  }

  [Symbol.dispose](): void {
    this.#ignore();
    this.#end(() => true, 'the server closes');
  }

  #checkLimits(dn: string): void {
    const { perUser, total } = this.#config;
    const mine = [...this.#open].filter((entry) => entry.dn === dn).length;
    if (mine < perUser && this.#open.size < total) return;
    const text = mine < perUser ? `${total} at this server` : `${perUser} of each user`;
    const details = { retryAfterSeconds: 30 };
    throw new GridError('LIMIT_REACHED', `too many ${this.#what}s: ${text}`, details);
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
    const { idleSeconds, maxSeconds, recheckSeconds } = this.#config;
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
    const unwatch = watchPermission({
      permission: entry.permission,
      everySeconds: recheckSeconds,
      onLost: () => entry.end.abort(new Error('not allowed any more')),
    });
    log.info(`${this.#what} opened`);
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
      unwatch();
      destroySoon(client);
      destroySoon(far);
      this.#open.delete(entry);
      log.info(
        { ...bytes, ms: Math.round(performance.now() - startedMs), reason },
        `${this.#what} closed`,
      );
    }
  }
}
