import type { Clock } from '#kernel/clock.js';
import { errorText } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import { createSerial } from '#kernel/persistence/serial.js';
import { without } from '../job/without.js';
import { isSeatOf, seatKey, type Seat } from './hosts/host.js';
import type { Hosts } from './hosts/hosts.js';
import { batchesOf } from './in-batches.js';
import type { TargetSystem } from './target-system.js';
import { addSample, newUsage, type Usage, type UsageSample, type UsageStore } from './usage.js';

export type UsageMeterOptions = {
  readonly store: UsageStore;
  readonly hosts: Pick<Hosts, 'of' | 'seats'>;
  readonly systems: {
    all(): Iterable<TargetSystem>;
    find(id: string): TargetSystem | undefined;
  };
  readonly intervalMs: number;
  /** How long those that have ended are kept. */
  readonly keepMs: number;
  readonly clock: Clock;
  readonly log: Log;
  readonly stopping: AbortSignal;
};

/** Records are kept for days: an hour more is nothing. */
const pruneEveryMs = 3_600_000;
/** Machines that are read and written at a time; their figures come in smaller batches. */
const atOnce = 200;
/** Of the time between two readings, what one of many machines is spread over. */
const spread = 0.5;

/**
 * Reads what the machines use, many by one call, and adds it up durably. A reading that fails loses nothing:
 * the hypervisor's counters go on.
 */
export class UsageMeter {
  readonly #options: UsageMeterOptions;
  readonly #serial = createSerial();
  /** Of target systems that there are. */
  readonly #usages = new Map<string, Usage>();
  #prunedMs = 0;

  constructor(options: UsageMeterOptions) {
    this.#options = options;
  }

  /** After the records are there. */
  async start(ids: readonly string[]): Promise<void> {
    const { store, systems } = this.#options;
    const orphans: Usage[] = [];
    for (const usage of await store.unfinished())
      if (systems.find(usage.id)) this.#usages.set(usage.id, usage);
      else orphans.push({ ...usage, endedMs: usage.measuredMs });
    if (orphans.length > 0) await store.save(orphans);
    for (const id of ids) {
      const ended = this.#usages.has(id) ? undefined : await store.find(id);
      if (ended) this.#usages.set(id, ended);
    }
    this.#watch().catch((error: unknown) => {
      if (!this.#options.stopping.aborted)
        this.#options.log.error({ err: error }, 'machines are not measured any more');
    });
  }

  /** `undefined`: nothing was measured yet. */
  find(id: string): Usage | undefined {
    return this.#usages.get(id);
  }

  /**
   * Reads these of a driver's machines on a host now.
   * @throws what the hypervisor or the database say
   */
  async measure(seat: Seat, ids: readonly string[]): Promise<void> {
    await this.#serial(seatKey(seat), async () => {
      const { hosts, clock } = this.#options;
      const samples = await hosts.of(seat).usage(seat.driver, ids);
      await this.#add(seat, samples, clock.now());
    });
  }

  async #add(seat: Seat, samples: readonly UsageSample[], now: number): Promise<void> {
    await this.#serial('usage', async () => {
      const { store, systems } = this.#options;
      const changed: Usage[] = [];
      for (const sample of samples) {
        const system = systems.find(sample.id);
        if (!system || !isSeatOf(seat, system)) continue;
        const before = this.#usages.get(sample.id) ?? begin(system, sample);
        if (before.endedMs === undefined) changed.push(addSample(before, sample, now));
      }
      if (changed.length === 0) return;
      await store.save(changed);
      for (const usage of changed) this.#usages.set(usage.id, usage);
    });
  }

  /** A last reading before a machine is taken down. Never fails: that must not keep it up. */
  async measureLast({ id, ...seat }: Pick<TargetSystem, 'id' | 'driver' | 'host'>): Promise<void> {
    if (this.#usages.get(id)?.endedMs !== undefined) return;
    try {
      await this.measure(seat, [id]);
    } catch (error) {
      const { log } = this.#options;
      log.info({ vmId: id, err: errorText(error) }, 'a machine could not be measured at its end');
    }
  }

  /**
   * Its machine is gone. May be repeated.
   * @param when `measured`: nobody knows since when, but it was there when it was last read
   */
  async end(id: string, when: 'now' | 'measured' = 'now'): Promise<void> {
    await this.#serial('usage', async () => {
      const usage = this.#usages.get(id);
      if (!usage || usage.endedMs !== undefined) return;
      const endedMs = when === 'now' ? this.#options.clock.now() : usage.measuredMs;
      const ended = { ...usage, endedMs };
      await this.#options.store.save([ended]);
      this.#usages.set(id, ended);
    });
  }

  /** It has a machine again. May be repeated. */
  async goOn(id: string): Promise<void> {
    await this.#serial('usage', async () => {
      const usage = this.#usages.get(id);
      if (usage?.endedMs === undefined) return;
      const open = without(usage, 'endedMs');
      await this.#options.store.save([open]);
      this.#usages.set(id, open);
    });
  }

  /** The target system is gone; what it used is kept by the store. */
  forget(id: string): void {
    this.#usages.delete(id);
  }

  async #watch(): Promise<void> {
    const { hosts, clock, intervalMs, stopping } = this.#options;
    while (!stopping.aborted) {
      await Promise.all(hosts.seats().map((seat) => this.#measureAll(seat)));
      await this.#prune();
      await clock.sleep(intervalMs, stopping);
    }
  }

  async #measureAll(seat: Seat): Promise<void> {
    const { systems, clock, intervalMs, stopping } = this.#options;
    const ids: string[] = [];
    for (const system of systems.all()) if (isSeatOf(seat, system)) ids.push(system.id);
    const batches = batchesOf(ids, atOnce);
    try {
      for (const [at, batch] of batches.entries()) {
        if (at > 0) await clock.sleep((spread * intervalMs) / batches.length, stopping);
        await this.measure(seat, batch);
      }
    } catch (error) {
      if (stopping.aborted) return;
      this.#options.log.info({ ...seat, err: errorText(error) }, 'machines could not be measured');
    }
  }

  async #prune(): Promise<void> {
    const { store, clock, keepMs, log } = this.#options;
    const now = clock.now();
    if (now - this.#prunedMs < pruneEveryMs) return;
    this.#prunedMs = now;
    try {
      await store.prune(now - keepMs);
    } catch (error) {
      log.warn({ err: error }, 'old accounting records could not be removed');
    }
  }
}

function begin(system: TargetSystem, { run, counters }: UsageSample): Usage {
  const { id, ownerDn, image, createdMs, boot, start } = system;
  const { name, version } = image.metadata;
  const startedMs = createdMs + (boot.startedMs ?? 0);
  const usage = newUsage({ id, ownerDn, imageName: `${name}:${version}`, startedMs }, run);
  // what a spare has used before is nobody's
  return start?.tier === 'spare' ? { ...usage, last: { run, counters } } : usage;
}
