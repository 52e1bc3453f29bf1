import { GridError } from '#kernel/errors.js';
import { createSerial } from '#kernel/persistence/serial.js';
import type { Mortals } from '../reaper.js';

/** What a user has had made and that has a lifetime: a transfer, a task, a share. */
export type OwnedRecord = {
  readonly id: string;
  readonly ownerDn: string;
  readonly tags: readonly string[];
  /** What others may do with it; only its owner changes that. */
  readonly acl?: readonly string[];
  /** ms since the epoch */
  readonly createdMs: number;
  /** ms since the epoch; absent: until it is deleted */
  readonly terminationMs?: number;
};

/** Durable records of one kind. */
export type RecordStore<R extends OwnedRecord> = {
  all(): Promise<readonly R[]>;
  save(record: R): Promise<void>;
  remove(id: string): Promise<void>;
};

export type RecordPage = {
  readonly offset: number;
  readonly num: number;
  readonly tags?: readonly string[];
};

export type OwnedRecordsOptions<R extends OwnedRecord> = {
  readonly store: RecordStore<R>;
  /** For people: `transfer`. */
  readonly what: string;
  readonly perUser: number;
  /** Is there for the engine only: it is being deleted. */
  readonly isGone?: (record: R) => boolean;
  /** Makes room for new ones of its owner: it is over. */
  readonly mayGo?: (record: R) => boolean;
};

/** Records of one kind, all in memory; each change is stored before it is seen. */
export class OwnedRecords<R extends OwnedRecord> {
  readonly #options: OwnedRecordsOptions<R>;
  readonly #records = new Map<string, R>();
  readonly #queue = createSerial();

  constructor(options: OwnedRecordsOptions<R>) {
    this.#options = options;
  }

  /** What was stored before. */
  async load(): Promise<readonly R[]> {
    for (const record of await this.#options.store.all()) this.#records.set(record.id, record);
    return [...this.#records.values()];
  }

  /** What was stored otherwise. */
  show(record: R): void {
    this.#records.set(record.id, record);
  }

  find(id: string): R | undefined {
    return this.#records.get(id);
  }

  /** @throws `NOT_FOUND` */
  get(id: string): R {
    const record = this.#records.get(id);
    if (record && this.#options.isGone?.(record) !== true) return record;
    throw new GridError('NOT_FOUND', `there is no ${this.#options.what} ${id}`);
  }

  all(): Iterable<R> {
    return this.#records.values();
  }

  /** Those that `isShown` is true of, the newest first. */
  page(
    isShown: (record: R) => boolean,
    { offset, num, tags = [] }: RecordPage,
  ): { ids: string[]; total: number } {
    const shown = this.#where(
      (each) => isShown(each) && tags.every((tag) => each.tags.includes(tag)),
    );
    return { ids: shown.slice(offset, offset + num).map(({ id }) => id), total: shown.length };
  }

  /** @throws `LIMIT_REACHED` the user has as many as he may */
  async add(record: R): Promise<void> {
    const { store, what, perUser } = this.#options;
    // one after the other for each user, so that two at once do not both pass the limit
    await this.#queue(`user ${record.ownerDn}`, async () => {
      const mine = this.#where(({ ownerDn }) => ownerDn === record.ownerDn);
      if (mine.length >= perUser) {
        const oldest = mine.findLast((each) => this.#options.mayGo?.(each));
        if (!oldest)
          throw new GridError(
            'LIMIT_REACHED',
            `the limit of ${perUser} ${what}s per user is reached`,
          );
        await this.remove(oldest.id);
      }
      await store.save(record);
      this.#records.set(record.id, record);
    });
  }

  /** @param change gives the record itself where there is nothing to change */
  async update(id: string, change: (record: R) => R): Promise<R | undefined> {
    return await this.#queue(id, async () => {
      const before = this.#records.get(id);
      if (!before) return undefined;
      const after = change(before);
      if (after === before) return before;
      await this.#options.store.save(after);
      this.#records.set(id, after);
      return after;
    });
  }

  async remove(id: string): Promise<void> {
    await this.#queue(id, async () => {
      await this.#options.store.remove(id);
      this.#records.delete(id);
    });
  }

  /** For the reaper. */
  mortals(end: Mortals['end']): Mortals {
    return { what: this.#options.what, expired: (nowMs) => this.#expired(nowMs), end };
  }

  /** The newest first. */
  #where(fits: (record: R) => boolean): R[] {
    const { isGone = () => false } = this.#options;
    return [...this.#records.values()]
      .filter((each) => fits(each) && !isGone(each))
      .sort((a, b) => b.createdMs - a.createdMs);
  }

  *#expired(nowMs: number): Iterable<string> {
    const { isGone = () => false } = this.#options;
    for (const record of this.#records.values())
      if ((record.terminationMs ?? Infinity) <= nowMs && !isGone(record)) yield record.id;
  }
}
