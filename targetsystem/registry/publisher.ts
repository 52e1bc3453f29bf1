import type { Clock } from '#kernel/clock.js';
import { errorText } from '#kernel/errors.js';
import { createHttpClient, type HttpClient } from '#kernel/http/client.js';
import type { Log } from '#kernel/log.js';
import type { EntryContent } from './entries.js';

/** A registry elsewhere that is to know of this server. */
export type ExternalRegistry = {
  /** `https://host:port/SITE/rest/registries/default_registry` */
  readonly url: string;
  /** PEM; absent: the authorities that the system trusts. */
  readonly ca?: string | undefined;
  /** Servers that it tells of may speak for users here, by the keys that it tells. */
  readonly trustKeys?: boolean;
};

export type PublisherOptions = {
  readonly registries: readonly ExternalRegistry[];
  /** What this server offers. */
  readonly entries: () => readonly EntryContent[];
  /** Proves who we are, for a few minutes. */
  readonly token: () => Promise<string>;
  readonly clock: Clock;
  readonly log: Log;
  readonly timeoutMs?: number;
};

type Status = 'OK' | 'DOWN' | 'UNKNOWN';

/** An entry is refreshed so long before it would vanish; without a word about that, after the other. */
const marginMs = 60_000;
const unknownLifetimeMs = 300_000;
const firstRetryMs = 5_000;
const maxRetryMs = 300_000;

/**
 * Tells registries elsewhere of this server, again before they forget it (unicore-rest 3.19). One that
 * does not answer is tried at growing intervals, and keeps nobody waiting.
 */
export class RegistryPublisher implements AsyncDisposable {
  readonly #options: PublisherOptions;
  readonly #log: Log;
  readonly #status = new Map<string, Status>();
  readonly #closing = new AbortController();
  readonly #loops: Promise<void>[];

  constructor(options: PublisherOptions) {
    this.#options = options;
    this.#log = options.log.child({ part: 'targetsystem.registry' });
    for (const { url } of options.registries) this.#status.set(url, 'UNKNOWN');
    this.#loops = options.registries.map((registry) => this.#publish(registry));
  }

  /** By name, as the base resource shows them. */
  status(): Record<string, Status> {
    return Object.fromEntries(
      [...this.#status].map(([url, status]) => [`Registry ${url}`, status]),
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing.abort();
    await Promise.all(this.#loops);
  }

  async #publish({ url, ca }: ExternalRegistry): Promise<void> {
    const { clock, timeoutMs = 15_000 } = this.#options;
    const { signal } = this.#closing;
    await using client = createHttpClient({ baseUrl: url, timeoutMs, ...(ca && { tls: { ca } }) });
    let failures = 0;
    while (!signal.aborted) {
      let waitMs: number;
      try {
        waitMs = await this.#push(client);
        if (this.#status.get(url) !== 'OK') this.#log.info({ peer: url }, 'registry told of us');
        this.#status.set(url, 'OK');
        failures = 0;
      } catch (error) {
        if (this.#closing.signal.aborted) return;
        if (failures === 0)
          this.#log.warn({ peer: url, err: errorText(error) }, 'registry takes no entries of ours');
        this.#status.set(url, 'DOWN');
        waitMs = Math.min(maxRetryMs, firstRetryMs * 2 ** Math.min(failures, 16));
        failures += 1;
      }
      await clock.sleep(waitMs, signal).catch(() => undefined);
    }
  }

  /** @returns when to come again */
  async #push(client: HttpClient): Promise<number> {
    const { signal } = this.#closing;
    const authorization = `Bearer ${await this.#options.token()}`;
    let waitMs = Number.POSITIVE_INFINITY;
    for (const entry of this.#options.entries()) {
      const { headers } = await client.json('POST', '', entry, {
        headers: { authorization },
        signal,
      });
      waitMs = Math.min(waitMs, refreshAfter(headers['x-unicore-lifetime']));
    }
    return Number.isFinite(waitMs) ? waitMs : unknownLifetimeMs;
  }
}

/** A short life time leaves no room for the whole margin. */
function refreshAfter(header: unknown): number {
  const lifetimeMs = Number(header) * 1_000;
  if (!Number.isFinite(lifetimeMs) || lifetimeMs <= 0) return unknownLifetimeMs;
  return Math.max(lifetimeMs - marginMs, Math.min(lifetimeMs / 2, marginMs));
}
