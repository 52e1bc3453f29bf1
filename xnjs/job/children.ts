import type { Clock } from '#kernel/clock.js';
import { GridError } from '#kernel/errors.js';
import { parseDescription, jobName } from './description.js';
import type { Job } from './job.js';
import { logLine } from './log-line.js';
import type { JobStore } from './store.js';
import { childId, findSweep } from './sweep.js';
import { withResolvers } from './with-resolvers.js';

export type ChildrenOptions = {
  readonly store: JobStore;
  readonly clock: Clock;
  readonly sweepLimit: number;
  /** A child has been stored. */
  readonly adopt: (child: Job) => void;
  readonly order: (id: string, order: 'abort' | 'destroy') => Promise<void>;
};

const retryMs = 1_000;
const createdAtOnce = 100;

/** Whether it may make and change other jobs; before it is prepared nobody knows that it does not. */
export function mayHaveChildren({ parentId, plan }: Job): boolean {
  return parentId === undefined && (plan === undefined || plan.sweep !== undefined);
}

/** The children of parameter sweeps: jobs in the store that only their parent shows. */
export class Children {
  readonly #options: ChildrenOptions;
  /** Of parents whose children somebody waits for. */
  readonly #waiting = new Map<string, () => void>();

  constructor(options: ChildrenOptions) {
    this.#options = options;
  }

  /** Stores those that are not there yet, and removes those of former runs. @returns lines for the log */
  async create(parent: Job): Promise<string[]> {
    const { store, sweepLimit, order, adopt } = this.#options;
    const sweep = findSweep(parent.description, sweepLimit);
    if (!sweep) throw new TypeError('children of a plain job');
    const wanted = new Map(
      sweep.values.map((value, at) => [childId(parent.id, parent.run.number, at), value]),
    );
    const there = await store.children(parent.id);
    const known = new Set(there.map(({ id }) => id));
    for (const { id } of there) if (!wanted.has(id)) await order(id, 'destroy');
    const missing = [...wanted].filter(([id]) => !known.has(id));
    for (let at = 0; at < missing.length; at += createdAtOnce)
      await Promise.all(
        missing.slice(at, at + createdAtOnce).map(async ([id, value]) => {
          const child = this.#child(parent, id, sweep.child(value));
          await store.insert(child);
          adopt(child);
        }),
      );
    return [...wanted].map(([id, value]) => `Child ${id}: ${sweep.name}=${value}`);
  }

  /** Resolves when none of them has anything left to do. */
  async over(parent: Job, signal: AbortSignal): Promise<void> {
    await this.#until(parent, signal, (children) => !children.some(({ active }) => active));
  }

  /** Orders the end of all, and waits for it. */
  async stop(parent: Job, order: 'abort' | 'destroy', signal: AbortSignal): Promise<void> {
    for (const { id } of await this.#options.store.children(parent.id))
      await this.#options.order(id, order);
    if (order === 'abort') await this.over(parent, signal);
    else await this.#until(parent, signal, ({ length }) => length === 0);
  }

  /** A child is over, or gone. */
  changed({ parentId }: Job): void {
    if (parentId !== undefined) this.#waiting.get(parentId)?.();
  }

  /** Looks whenever one of them has changed. */
  async #until(
    { id }: Job,
    signal: AbortSignal,
    met: (children: readonly { readonly active: boolean }[]) => boolean,
  ): Promise<void> {
    const { store, clock } = this.#options;
    try {
      for (;;) {
        const { promise: changed, resolve, reject } = withResolvers<undefined>();
        changed.catch(() => undefined); // it may be off before anybody waits for it
        this.#waiting.set(id, () => resolve(undefined));
        const abort = (): void => reject(signal.reason);
        signal.addEventListener('abort', abort, { once: true });
        if (signal.aborted) abort();
        try {
          if (met(await store.children(id))) return;
          await changed;
        } catch (error) {
          if (!(error instanceof GridError) || signal.aborted) throw error;
          await clock.sleep(retryMs, signal); // the database is away
        } finally {
          changed.catch(() => undefined);
          signal.removeEventListener('abort', abort);
        }
      }
    } finally {
      this.#waiting.delete(id);
    }
  }

  #child(parent: Job, id: string, description: Job['description']): Job {
    const nowMs = this.#options.clock.now();
    const parsed = parseDescription(description);
    return {
      id,
      parentId: parent.id,
      targetId: parent.targetId,
      ownerDn: parent.ownerDn,
      state: 'CREATED',
      effects: [{ do: 'prepare' }],
      name: jobName(parsed),
      jobType: parsed['Job type'],
      description,
      preferences: parent.preferences,
      tags: [],
      log: [logLine(nowMs, `Created with type 'sweep-instance' for ${parent.id}`)],
      createdMs: nowMs,
      terminationMs: parent.terminationMs,
      released: true,
      run: { number: 1, startedMs: nowMs },
    };
  }
}
