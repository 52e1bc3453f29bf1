import type { Clock } from '#kernel/clock.js';
import { asGridError, errorText } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import type { Budget, Partition } from '../tsi/tsi.js';
import type { SystemRecords } from './system-records.js';
import { identityOf, type TargetSystem } from './target-system.js';
import type { TargetBinding } from './target-binding.js';

export type QueuesOptions = {
  readonly records: Pick<SystemRecords, 'find' | 'queue' | 'save'>;
  /** Those that are bound at present. */
  readonly bound: () => readonly string[];
  readonly binding: (id: string) => TargetBinding | undefined;
  readonly intervalMs: number;
  readonly clock: Clock;
  readonly log: Log;
  readonly stopping: AbortSignal;
};

type Told = NonNullable<TargetSystem['queues']>;

/** What can be the name of a queue in a job, an IDB and the header of a submission. */
const queueName = /^[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}$/;
const mostQueues = 500;
const mostBudgets = 100;
const longestWord = 128;
const askedAtOnce = 8;
/** How long so many take at least: it is not urgent, and each costs a worker. */
const batchMs = 800;

/**
 * What the batch systems of the target systems tell of their queues, and what is left of the owner's time. Asked for
 * when a TSI begins to answer, and once per interval, for all of its jobs: operators change queues seldom.
 */
export class Queues {
  readonly #options: QueuesOptions;
  readonly #asking = new Map<string, Promise<void>>();
  /** Those that are to be asked once more. */
  readonly #again = new Set<string>();
  #isAskingAgain = false;

  constructor(options: QueuesOptions) {
    this.#options = options;
  }

  /** Asks one, once for all who wait for the answer. @throws `TSI_UNAVAILABLE` */
  ask(id: string): Promise<void> {
    const asking =
      this.#asking.get(id) ?? this.#ask(id).finally(() => void this.#asking.delete(id));
    this.#asking.set(id, asking);
    return asking;
  }

  /** One that begins to answer; that has told before, in turn: the TSIs of many may begin at once. Never fails. */
  async greet(id: string): Promise<void> {
    if (this.#options.records.find(id)?.queues) await this.#askAgain(id);
    else await this.#askQuietly(id);
  }

  async #askAgain(id: string): Promise<void> {
    const { clock, stopping } = this.#options;
    this.#again.add(id);
    if (this.#isAskingAgain) return; // another call gets to it
    this.#isAskingAgain = true;
    while (this.#again.size > 0 && !stopping.aborted) {
      const some = [...this.#again].slice(0, askedAtOnce);
      for (const one of some) this.#again.delete(one);
      await Promise.all(some.map((one) => this.#askQuietly(one)));
      const paced = some.length === askedAtOnce ? batchMs : 0;
      await clock.sleep(paced, stopping).catch(() => undefined);
    }
    this.#isAskingAgain = false;
  }

  async #askQuietly(id: string): Promise<void> {
    await this.ask(id).catch((error: unknown) => {
      const about = { vmId: id, err: errorText(error) };
      this.#options.log.info(about, 'the queues could not be asked for');
    });
  }

  /** Until the server stops. */
  async watch(): Promise<void> {
    const { clock, intervalMs, stopping, bound } = this.#options;
    try {
      for (;;) {
        await clock.sleep(intervalMs, stopping);
        const all = bound();
        for (let first = 0; first < all.length; first += askedAtOnce) {
          if (first > 0) await clock.sleep(batchMs, stopping);
          const some = all.slice(first, first + askedAtOnce);
          // what does not answer is asked when it is bound again
          await Promise.allSettled(some.map((id) => this.ask(id)));
        }
      }
    } catch {
      // stopping
    }
  }

  async #ask(id: string): Promise<void> {
    const { records, binding, log, stopping } = this.#options;
    const record = records.find(id);
    const bound = binding(id);
    if (!record || !bound) return;
    let told: Told | undefined;
    try {
      told = sensible(await bound.tsi.partitions(identityOf(record), { signal: stopping }));
    } catch (error) {
      const known = asGridError(error);
      if (!known || known.code === 'TSI_UNAVAILABLE') throw error;
      log.info({ vmId: id, err: errorText(error) }, 'the batch system does not tell its queues');
    }
    const left = await this.#askBudgets(record, bound, told ?? record.queues);
    await records.queue(id, async () => {
      const now = records.find(id);
      if (!now) return;
      const queues = told ?? now.queues ?? {}; // what was told before lasts
      const budgets = left ?? now.budgets;
      const next = { ...now, queues, ...(budgets && { budgets }) };
      const isSame = (['queues', 'budgets'] as const).every(
        (key) => JSON.stringify(next[key]) === JSON.stringify(now[key]),
      );
      if (!isSame) await records.save(next);
    });
  }

  /** Without queues there is no batch system that could limit anything: that call is saved. */
  async #askBudgets(
    record: TargetSystem,
    { tsi }: TargetBinding,
    queues: Told = {},
  ): Promise<Budget[] | undefined> {
    const { log, stopping } = this.#options;
    if (Object.keys(queues).length === 0) return undefined;
    try {
      const told = await tsi.budget(identityOf(record), { signal: stopping });
      // the TSI is a guest's
      return told
        .filter(({ project, remaining }) => remaining >= 0 && project.length <= longestWord)
        .map((budget) => ({ ...budget, units: budget.units.slice(0, longestWord) }))
        .slice(0, mostBudgets);
    } catch (error) {
      const vmId = record.id;
      log.info({ vmId, err: errorText(error) }, 'the batch system does not tell what time is left');
      return undefined;
    }
  }
}

/** The TSI is a guest's: what could not be asked for is left out. */
function sensible(told: Readonly<Record<string, Partition>>): Told {
  const usable = Object.entries(told).filter(
    ([name, { Nodes }]) => queueName.test(name) && Nodes >= 0,
  );
  return Object.fromEntries(usable.slice(0, mostQueues));
}
