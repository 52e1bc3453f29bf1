import type { Clock } from '#kernel/clock.js';
import { errorText } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import type { AgentFacts } from '#tsi/protocol/facts.js';
import type { TargetBinding } from './target-binding.js';
import type { GuestWord } from './views.js';

export type GuestWatchOptions = {
  /** Of the machines whose agents answer. */
  readonly bindings: () => readonly (readonly [id: string, binding: TargetBinding])[];
  readonly learn: (id: string, facts: AgentFacts) => Promise<void>;
  readonly intervalMs: number;
  readonly clock: Clock;
  readonly log: Log;
  readonly stopping: AbortSignal;
};

/** A file system with less than this share free is as good as full. */
const fullShare = 0.01;
/** Agents that are asked at the same time. */
const atOnce = 16;
/** Those that are asked in a second, on average. */
const asksPerSecond = 12;

/** Asks agents now and then how their guests are. */
export class GuestWatch {
  readonly #options: GuestWatchOptions;
  readonly #heardMs = new Map<string, number>();

  constructor(options: GuestWatchOptions) {
    this.#options = options;
  }

  /** When the guest last said something of itself; ms since the epoch. */
  heardMs(id: string): number | undefined {
    return this.#heardMs.get(id);
  }

  /** It has said something, whoever asked. */
  heard(id: string): void {
    this.#heardMs.set(id, this.#options.clock.now());
  }

  forget(id: string): void {
    this.#heardMs.delete(id);
  }

  async watch(): Promise<void> {
    const { clock, intervalMs, stopping, bindings } = this.#options;
    for (;;) {
      await clock.sleep(intervalMs, stopping).catch(() => undefined);
      if (stopping.aborted) return;
      await this.#askAll(bindings());
    }
  }

  async #askAll(all: ReturnType<GuestWatchOptions['bindings']>): Promise<void> {
    const { clock, stopping } = this.#options;
    const asking = new Set<Promise<void>>();
    for (const [at, [id, binding]] of all.entries()) {
      // one by one: to begin so many questions together would hold up everybody else
      if (at > 0) await clock.sleep(1_000 / asksPerSecond, stopping).catch(() => undefined);
      if (asking.size >= atOnce) await Promise.race(asking);
      if (stopping.aborted) break;
      const asked = this.#ask(id, binding).finally(() => void asking.delete(asked));
      asking.add(asked);
    }
    await Promise.all(asking);
  }

  async #ask(id: string, binding: TargetBinding): Promise<void> {
    const { learn, log } = this.#options;
    try {
      const facts = await binding.facts();
      if (facts) await learn(id, facts);
    } catch (error) {
      log.debug({ vmId: id, err: errorText(error) }, 'a guest says nothing of itself');
    }
  }
}

/** Whether something is wrong with a guest, by its own words. */
export function judge({ fileSystems = [] }: AgentFacts): { says: GuestWord; fact: string } {
  const full = fileSystems.filter(
    ({ totalBytes, freeBytes }) => totalBytes > 0 && freeBytes < fullShare * totalBytes,
  );
  return full.length > 0
    ? {
        says: 'troubled',
        fact: `file systems of the guest are full: ${full.map(({ path }) => path).join(', ')}`,
      }
    : { says: 'well', fact: 'the guest finds nothing wrong with itself' };
}
