import { createHash } from 'node:crypto';
import type { Clock } from '#kernel/clock.js';
import { GridError } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import { createSerial } from '#kernel/persistence/serial.js';
import { equalDns } from '#kernel/security/dn.js';
import type { EntryStore } from './entry-store.js';

/** What a service says of itself in a registry. */
export type EntryContent = {
  readonly Endpoint: string;
  readonly InterfaceName: string;
  readonly InterfaceNamespace?: string | undefined;
  readonly ServerIdentity?: string | undefined;
  readonly ServerPublicKey?: string | undefined;
};

/** An entry that another server has added, and has to refresh. */
export type RegistryEntry = {
  readonly id: string;
  readonly ownerDn: string;
  readonly content: EntryContent;
  readonly terminationMs: number;
  /** Absent: there are none. */
  readonly tags?: readonly string[];
};

export class RegistryError extends GridError<'FORBIDDEN' | 'NOT_FOUND' | 'CONFLICT'> {}

export type EntriesOptions = {
  readonly store: EntryStore;
  readonly clock: Clock;
  readonly log: Log;
  readonly lifetimeMs: number;
  readonly maxEntries: number;
  readonly reaperIntervalMs: number;
};

/** The same endpoint has the same entry, whoever asks. */
export function entryId(endpoint: string): string {
  const hex = createHash('sha256').update(endpoint).digest('hex');
  const parts = [hex.slice(0, 8), hex.slice(8, 12), `8${hex.slice(13, 16)}`];
  return [...parts, `a${hex.slice(17, 20)}`, hex.slice(20, 32)].join('-');
}

/** Entries of other servers: stored, refreshed by those who added them, gone when they do not. */
export class RegistryEntries implements AsyncDisposable {
  readonly #options: EntriesOptions;
  readonly #entries = new Map<string, RegistryEntry>();
  readonly #queue = createSerial();
  readonly #closing = new AbortController();
  #reaping: Promise<void> = Promise.resolve();

  private constructor(options: EntriesOptions) {
    this.#options = options;
  }

  static async open(options: EntriesOptions): Promise<RegistryEntries> {
    const entries = new RegistryEntries(options);
    for (const entry of await options.store.all()) entries.#entries.set(entry.id, entry);
    entries.#reaping = entries.#reap();
    return entries;
  }

  get lifetimeMs(): number {
    return this.#options.lifetimeMs;
  }

  /** No entry lives longer without being refreshed. */
  latestTerminationMs(): number {
    return this.#options.clock.now() + this.lifetimeMs;
  }

  list(): RegistryEntry[] {
    const now = this.#options.clock.now();
    return [...this.#entries.values()].filter(({ terminationMs }) => terminationMs > now);
  }

  /** @throws {@link RegistryError} `NOT_FOUND` */
  get(id: string): RegistryEntry {
    const entry = this.list().find((each) => each.id === id);
    if (entry) return entry;
    throw new RegistryError('NOT_FOUND', `there is no registry entry ${id}`);
  }

  /**
   * Adds the entry, or gives the one of this endpoint another life time. Durable when it returns.
   * @throws {@link RegistryError} `FORBIDDEN` another server's; `CONFLICT` there are too many
   */
  async put(content: EntryContent, ownerDn: string): Promise<RegistryEntry> {
    const { maxEntries } = this.#options;
    const id = entryId(content.Endpoint);
    return await this.#queue('entries', async () => {
      const former = this.list().find((each) => each.id === id);
      if (former && !equalDns(former.ownerDn, ownerDn))
        throw new RegistryError('FORBIDDEN', `Endpoint: ${former.ownerDn} has added it`);
      if (!former && this.list().length >= maxEntries)
        throw new RegistryError('CONFLICT', `the registry has ${maxEntries} entries already`);
      const terminationMs = this.latestTerminationMs();
      const tags = former?.tags && { tags: former.tags };
      return await this.#save({ id, ownerDn, content, terminationMs, ...tags });
    });
  }

  /** Durable when it returns. @throws {@link RegistryError} `NOT_FOUND` */
  async change(
    id: string,
    change: Partial<Pick<RegistryEntry, 'tags' | 'terminationMs'>>,
  ): Promise<void> {
    await this.#queue('entries', () => this.#save({ ...this.get(id), ...change }));
  }

  async #save(entry: RegistryEntry): Promise<RegistryEntry> {
    await this.#options.store.save(entry);
    this.#entries.set(entry.id, entry);
    return entry;
  }

  async remove(id: string): Promise<void> {
    await this.#queue('entries', async () => {
      await this.#options.store.remove(id);
      this.#entries.delete(id);
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing.abort();
    await this.#reaping;
  }

  async #reap(): Promise<void> {
    const { clock, log, reaperIntervalMs } = this.#options;
    const { signal } = this.#closing;
    while (!signal.aborted) {
      const now = clock.now();
      for (const { id, content, terminationMs } of this.#entries.values())
        if (terminationMs <= now)
          await this.remove(id).then(
            () => log.info({ peer: content.Endpoint }, 'a registry entry was not refreshed'),
            (error: unknown) => log.error({ err: error }, 'a registry entry could not be removed'),
          );
      await clock.sleep(reaperIntervalMs, signal).catch(() => undefined);
    }
  }
}
