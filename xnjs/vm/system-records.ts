import { errorText } from '#kernel/errors.js';
import type { Clock } from '#kernel/clock.js';
import type { Log } from '#kernel/log.js';
import { createSerial } from '#kernel/persistence/serial.js';
import { adopted, type Found } from './adopted.js';
import type { MarkedRecord } from './domain-mark.js';
import { siteChange, type SiteChange } from '../changes/site-change.js';
import type { TargetEvent } from '../target.js';
import { amountsOf, sameAmounts, type Quota } from './placement/quota.js';
import { SharedImages } from './shared-images.js';
import { isGone, isUsable, step, VmError, type VmEvent } from './state.js';
import type { TargetStore } from './target-store.js';
import type { TargetSystem } from './target-system.js';
import { viewsOf } from './views.js';

export type SystemRecordsOptions = {
  readonly store: TargetStore;
  readonly clock: Clock;
  readonly log: Log;
  readonly stopping: AbortSignal;
  /** Makes the world look like the record; repeated until it works. */
  readonly reconcile: (id: string) => Promise<void>;
  /** One that was found again is about to be stored: what it has is its own. */
  readonly onAdopt: (record: TargetSystem) => Promise<void>;
  /** The record is no more. */
  readonly onRemoved: (id: string) => void;
};

/** How long a reconciliation waits after a failure before it tries again. */
const retryMs = 1_000;

/**
 * What is known of each target system. A record is changed by `step` alone, one event at a time, and is stored
 * before anything is done about it.
 */
export class SystemRecords {
  readonly #options: SystemRecordsOptions;
  readonly #records = new Map<string, TargetSystem>();
  readonly #images = new SharedImages();
  /** One piece of work after the other for each record. */
  readonly #queue = createSerial();
  /** Those that a reconciliation has failed of: one try after the other, whoever asks for it. */
  readonly #retrying = new Set<string>();
  readonly #listeners = new Set<(event: TargetEvent) => void>();

  constructor(options: SystemRecordsOptions) {
    this.#options = options;
  }

  async load(): Promise<void> {
    for await (const record of this.#options.store.all()) this.show(record);
  }

  all(): Iterable<TargetSystem> {
    return this.#records.values();
  }

  find(id: string): TargetSystem | undefined {
    return this.#records.get(id);
  }

  /** Whether a machine is being started there. */
  startsOn(host: string): boolean {
    for (const record of this.#records.values())
      if (record.state === 'INITIALIZING' && record.host === host) return true;
    return false;
  }

  /** @throws {@link VmError} `NOT_FOUND` */
  get(id: string): TargetSystem {
    const record = this.#records.get(id);
    if (!record) throw new VmError('NOT_FOUND', `there is no target system ${id}`, { vmId: id });
    return record;
  }

  /** @returns ends it */
  subscribe(listener: (event: TargetEvent) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Work on one record, one piece after the other. */
  async queue<T>(id: string, work: () => Promise<T>): Promise<T> {
    return await this.#queue(id, work);
  }

  /** When the work that was queued has ended. */
  async idle(): Promise<void> {
    const idle = [...this.#records.keys()].map((id) => this.#queue(id, () => Promise.resolve()));
    await Promise.allSettled(idle);
  }

  /** By way of the record's queue, after which the machine is made to look like the record. */
  async apply(id: string, event: VmEvent, quotas?: readonly Quota[]): Promise<void> {
    await this.#queue(id, () => this.applyNow(id, event, quotas));
    this.schedule(id);
  }

  /**
   * Only from inside the record's queue.
   * @param quotas as {@link save}
   */
  async applyNow(id: string, event: VmEvent, quotas?: readonly Quota[]): Promise<void> {
    const before = this.#records.get(id);
    if (!before) return;
    const after = step(before, event);
    if (after === before) return;
    const isNews = after.state !== before.state || after.evidence.fact !== before.evidence.fact;
    if (after.state === 'DESTROYED') {
      await this.#options.store.remove(after, siteChange('deleted', after));
      this.#records.delete(id);
      this.#options.onRemoved(id);
    } else {
      await this.save(after, isNews ? siteChange('state', after) : undefined, quotas);
    }
    if (!isNews) return;
    this.#options.log.info(
      { vmId: id, from: before.state, to: after.state, fact: event.evidence.fact },
      'target system changed',
    );
    this.#announce(before, after);
  }

  /**
   * What changes no state. Only from inside the record's queue.
   * @param quotas which must be enough; absent: what it takes of them is changed if that is another
   */
  async save(record: TargetSystem, change?: SiteChange, quotas?: readonly Quota[]): Promise<void> {
    const before = this.#records.get(record.id);
    const isSame = before && sameAmounts(amountsOf(before), amountsOf(record));
    const claims = quotas ?? (before && !isSame ? [] : undefined);
    await this.#options.store.save(record, change, claims);
    this.show(record);
  }

  /** Seen at once, stored with the next event, or elsewhere. */
  show(record: TargetSystem): void {
    this.#records.set(record.id, this.#images.share(record));
  }

  /** What the database has lost is a target system again. It counts on quotas, which need not be enough. */
  async adopt(found: MarkedRecord, where: Found): Promise<void> {
    await this.#queue(found.id, async () => {
      if (this.#records.has(found.id)) return;
      const record = adopted(found, where, this.#options.clock.now());
      await this.#options.onAdopt(record);
      await this.save(record, siteChange('created', record), []);
    });
    this.schedule(found.id);
  }

  /** Makes the machine look like the record, by way of the record's queue. Never fails: there is a next time. */
  async reconcile(id: string): Promise<void> {
    await this.#queue(id, () => this.#options.reconcile(id)).catch((error: unknown) => {
      this.#options.log.info(
        { vmId: id, err: errorText(error) },
        'a machine could not be reconciled',
      );
    });
  }

  /** The machine is made to look like the record soon, and again until that works. */
  schedule(id: string): void {
    const { stopping, log, reconcile } = this.#options;
    if (stopping.aborted) return;
    void this.#queue(id, () => reconcile(id)).catch((error: unknown) => {
      if (this.#retrying.has(id)) return;
      this.#retrying.add(id);
      log.warn({ vmId: id, err: error }, 'target system could not be reconciled, trying again');
      void this.#scheduleLater(id);
    });
  }

  async #scheduleLater(id: string): Promise<void> {
    const { clock, stopping } = this.#options;
    await clock.sleep(retryMs, stopping).catch(() => undefined);
    this.#retrying.delete(id);
    this.schedule(id);
  }

  #announce(before: TargetSystem, after: TargetSystem): void {
    const event: TargetEvent | undefined =
      isUsable(after) && !isUsable(before)
        ? {
            ...{ type: 'ready', targetId: after.id },
            ...(viewsOf(before).agent === undefined && { isStart: true }),
          }
        : after.generation !== before.generation
          ? { type: 'replaced', targetId: after.id }
          : isGone(after) && !isGone(before)
            ? { type: 'lost', targetId: after.id, reason: after.evidence.fact }
            : undefined;
    if (event) for (const listener of this.#listeners) listener(event);
  }
}
