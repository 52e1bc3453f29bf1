import { setImmediate as turn } from 'node:timers/promises';
import type { Log } from '#kernel/log.js';
import type { DomainView } from './hypervisor.js';
import { Orphans } from './orphans.js';
import type { SystemRecords } from './system-records.js';
import type { Driver } from './target-system.js';
import type { TargetSystemsOptions } from './target-systems-options.js';

export type ComparisonOptions = {
  readonly systems: TargetSystemsOptions;
  readonly records: SystemRecords;
  readonly log: Log;
  readonly stopping: AbortSignal;
  /** Those that have been started. */
  readonly started: () => Iterable<string>;
  /** Whether the domain is another's of this server than a target system's. */
  readonly isKnown: (id: string) => boolean;
  readonly onDomain: (domain: DomainView) => void;
  /** @throws when this server may not act any more */
  readonly require: () => Promise<void>;
};

/** Records that are looked at before anything else has its turn. */
const reconciledAtOnce = 100;

/** What do hypervisors have, and what do the records say they should? */
export class Comparison {
  readonly #options: ComparisonOptions;
  readonly #orphans: Orphans;

  constructor(options: ComparisonOptions) {
    const { systems, records, require } = options;
    this.#options = options;
    this.#orphans = new Orphans({
      ...systems,
      isKnown: (id) => this.#isKnown(id),
      adopt: (record) => records.adopt(record),
      graceMs: systems.orphanGraceMs ?? 60_000,
      require,
    });
  }

  /** Domains of ours that belong to nobody, and that nothing is known of. */
  get orphans(): readonly string[] {
    return this.#orphans.left;
  }

  #isKnown(id: string): boolean {
    return this.#options.records.find(id) !== undefined || this.#options.isKnown(id);
  }

  /** Now and then, until the server stops. */
  async watch(): Promise<void> {
    const { records, stopping } = this.#options;
    const { clock, compareMs = 30_000, hypervisor, observer } = this.#options.systems;
    for (;;) {
      await clock.sleep(compareMs, stopping).catch(() => undefined);
      if (stopping.aborted) return;
      const beganMs = performance.now();
      for (const driver of hypervisor.available()) await this.compare(driver);
      let count = 0;
      for (const { id } of records.all()) {
        await records.reconcile(id);
        if (++count % reconciledAtOnce === 0) await turn(); // most have nothing to do, and wait for nothing
      }
      observer?.reconciled(performance.now() - beganMs);
    }
  }

  /** After start-up, after a lost connection, and now and then. Never fails. */
  async compare(driver: Driver): Promise<void> {
    const { records, started, onDomain, log } = this.#options;
    try {
      // Those only: what is started while the list is on its way may be missing from it.
      const bound = [...started()].filter((id) => records.get(id).driver === driver);
      const domains = await this.#options.systems.hypervisor.list(driver, (id) =>
        this.#isKnown(id),
      );
      for (const domain of domains) if (records.find(domain.id)) onDomain(domain);
      await this.#orphans.judge(driver, domains);
      await this.#orphans.sweep(domains);
      const known = new Set(domains.map(({ id }) => id));
      for (const id of bound)
        if (!known.has(id))
          onDomain({ id, state: 'stopped', reason: 'the domain no longer exists' });
    } catch (error) {
      log.warn({ driver, err: error }, 'the hypervisor could not be compared with our records');
    }
  }
}
