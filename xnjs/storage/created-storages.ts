import type { Clock } from '#kernel/clock.js';
import { asGridError, errorText, GridError } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import { createSerial } from '#kernel/persistence/serial.js';
import type { FileSpace } from '../files/file-space.js';
import { Reaper } from '../reaper.js';
import type { TargetEvent, Targets } from '../target.js';
import { step, type StorageEvent } from './state.js';
import type { CreatedStorage, StorageStore } from './storage.js';

export type CreatedStoragesOptions = {
  readonly store: StorageStore;
  readonly targets: Targets;
  readonly clock: Clock;
  readonly log: Log;
  readonly perUser: number;
  readonly reaperIntervalMs: number;
  /** @throws `NOT_FOUND` its target system is gone */
  readonly filesOf: (storage: CreatedStorage) => FileSpace;
};

const retryMs = 2_000;

/**
 * The storages that users had made. Each record is changed by `step` alone and stored before anything is
 * done about it; making and removing its directory may be repeated at any time.
 */
export class CreatedStorages implements AsyncDisposable {
  readonly #options: CreatedStoragesOptions;
  readonly #log: Log;
  readonly #records = new Map<string, CreatedStorage>();
  readonly #queue = createSerial();
  readonly #closing = new AbortController();
  readonly #background = new Set<Promise<void>>();
  readonly #reaper: Reaper;
  #unsubscribe: (() => void) | undefined;

  constructor(options: CreatedStoragesOptions) {
    this.#options = options;
    this.#log = options.log.child({ part: 'xnjs.storage' });
    const { clock, reaperIntervalMs: intervalMs } = options;
    this.#reaper = new Reaper(
      { clock, log: this.#log, intervalMs },
      {
        what: 'storage',
        expired: (nowMs) => this.#expired(nowMs),
        end: (id) => this.destroy(id, 'its life time is over'),
      },
    );
  }

  /** Goes on with what was begun. The target systems must be known by now. */
  start(records: readonly CreatedStorage[]): void {
    for (const record of records) this.#records.set(record.id, record);
    this.#unsubscribe = this.#options.targets.subscribe((event) => this.#onTarget(event));
    for (const { id } of records) this.#schedule(id);
    this.#reaper.start();
  }

  find(id: string): CreatedStorage | undefined {
    return this.#records.get(id);
  }

  /** The newest first. */
  all(): CreatedStorage[] {
    return [...this.#records.values()].sort((a, b) => b.createdMs - a.createdMs);
  }

  /** Stores the wish and returns; the directory is made behind the caller's back. */
  async add(record: CreatedStorage): Promise<void> {
    // One after the other for each user, so that two at once do not both pass the limit.
    await this.#queue(`user ${record.ownerDn}`, async () => {
      const mine = this.all().filter(
        ({ ownerDn, state }) => ownerDn === record.ownerDn && state !== 'DESTROYING',
      );
      const { perUser, store } = this.#options;
      if (mine.length >= perUser)
        throw new GridError('BAD_REQUEST', `the limit of ${perUser} storages per user is reached`);
      await store.save(record);
      this.#records.set(record.id, record);
    });
    this.#schedule(record.id);
  }

  async update(
    id: string,
    change: (record: CreatedStorage) => CreatedStorage,
  ): Promise<CreatedStorage | undefined> {
    return await this.#queue(id, async () => {
      const before = this.#records.get(id);
      if (!before) return undefined;
      const after = change(before);
      await this.#options.store.save(after);
      this.#records.set(id, after);
      return after;
    });
  }

  /** Accepts the deletion; the record is gone when the directory is. */
  async destroy(id: string, reason: string): Promise<void> {
    await this.#queue(id, () => this.#apply(id, { type: 'destroy', reason }));
    this.#schedule(id);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#unsubscribe?.();
    this.#closing.abort();
    await this.#reaper[Symbol.asyncDispose]();
    await Promise.allSettled(this.#background);
  }

  /** Only from inside the record's queue. */
  async #apply(id: string, event: StorageEvent): Promise<void> {
    const before = this.#records.get(id);
    if (!before) return;
    const after = step(before, event);
    if (after === before) return;
    if (after.state === 'DESTROYED') {
      await this.#options.store.remove(id);
      this.#records.delete(id);
    } else {
      await this.#options.store.save(after);
      this.#records.set(id, after);
    }
    const { state: to, reason } = after;
    this.#log.info({ storageId: id, from: before.state, to, reason }, 'storage changed');
  }

  #onTarget(event: TargetEvent): void {
    for (const { id, place } of this.#records.values())
      if (place.on === 'target' && place.targetId === event.targetId) this.#schedule(id);
  }

  #schedule(id: string): void {
    if (!this.#closing.signal.aborted) this.#spawn(this.#queue(id, () => this.#reconcile(id)));
  }

  /** Makes the world look like the record. Only from inside the record's queue; idempotent. */
  async #reconcile(id: string): Promise<void> {
    const record = this.#records.get(id);
    if (!record || this.#closing.signal.aborted) return;
    try {
      if (this.#isLost(record) && record.state !== 'DESTROYING')
        await this.#apply(id, { type: 'lost', reason: 'its target system is gone' });
      else if (record.state === 'INITIALIZING') await this.#make(record);
      else if (record.state === 'DESTROYING') await this.#remove(record);
    } catch (error) {
      this.#log.info({ storageId: id, err: error }, 'storage has to wait, trying again');
      this.#spawn(this.#later(id));
    }
  }

  #isLost({ place }: CreatedStorage): boolean {
    return place.on === 'target' && !this.#options.targets.find(place.targetId);
  }

  async #make(record: CreatedStorage): Promise<void> {
    try {
      await this.#options.filesOf(record).mkdir('/');
    } catch (error) {
      if (isPassing(error)) throw error;
      const reason = `its directory could not be made: ${errorText(error)}`;
      await this.#apply(record.id, { type: 'failed', reason });
      return;
    }
    await this.#apply(record.id, { type: 'made', reason: 'its directory is there' });
  }

  async #remove(record: CreatedStorage): Promise<void> {
    if (record.cleanup && !this.#isLost(record))
      try {
        await this.#options.filesOf(record).destroy();
      } catch (error) {
        if (isPassing(error)) throw error;
        this.#log.warn({ storageId: record.id, err: error }, 'files of a storage are left behind');
      }
    await this.#apply(record.id, { type: 'removed', reason: 'its directory is gone' });
  }

  async #later(id: string): Promise<void> {
    await this.#options.clock.sleep(retryMs, this.#closing.signal);
    this.#schedule(id);
  }

  *#expired(nowMs: number): Iterable<string> {
    for (const { id, terminationMs, state } of this.#records.values())
      if (terminationMs !== undefined && terminationMs <= nowMs && state !== 'DESTROYING') yield id;
  }

  /** Work that nobody waits for. */
  #spawn(work: Promise<void>): void {
    const watched = work
      .catch((error: unknown) => {
        if (!this.#closing.signal.aborted)
          this.#log.error({ err: error }, 'work for a storage failed');
      })
      .finally(() => this.#background.delete(watched));
    this.#background.add(watched);
  }
}

/** Worth another try: the target system does not answer, or a disk is full. */
function isPassing(error: unknown): boolean {
  return asGridError(error)?.row.retry === true;
}
