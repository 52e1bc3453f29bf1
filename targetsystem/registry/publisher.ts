import type { Clock } from '#kernel/clock.js';
import { createHttpClient, type HttpClient } from '#kernel/http/client.js';
import type { Log } from '#kernel/log.js';
import type { EntryContent } from './entries.js';
import { RepeatedCalls } from './repeated-calls.js';

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

/** An entry is refreshed so long before it would vanish; without a word about that, after the other. */
const marginMs = 60_000;
const unknownLifetimeMs = 300_000;
const longestRetryMs = 300_000;

/** Tells registries elsewhere of this server, again before they forget it (unicore-rest 3.19). */
export function publishEntries(options: PublisherOptions): RepeatedCalls {
  const { registries, clock, log, timeoutMs = 15_000 } = options;
  const says = { ok: 'registry told of us', failed: 'registry takes no entries of ours' };
  return new RepeatedCalls({
    calls: registries.map(({ url, ca }) => ({
      ...{ name: `Registry ${url}`, url, says, longestRetryMs },
      call: async (signal) => {
        await using client = createHttpClient({
          ...{ baseUrl: url, timeoutMs },
          ...(ca && { tls: { ca } }),
        });
        return await push(options, client, signal);
      },
    })),
    clock,
    log: log.child({ part: 'targetsystem.registry' }),
  });
}

/** @returns when to come again */
async function push(
  { entries, token }: PublisherOptions,
  client: HttpClient,
  signal: AbortSignal,
): Promise<number> {
  const authorization = `Bearer ${await token()}`;
  let waitMs = Number.POSITIVE_INFINITY;
  for (const entry of entries()) {
    const { headers } = await client.json('POST', '', entry, {
      headers: { authorization },
      signal,
    });
    waitMs = Math.min(waitMs, refreshAfter(headers['x-unicore-lifetime']));
  }
  return Number.isFinite(waitMs) ? waitMs : unknownLifetimeMs;
}

/** A short life time leaves no room for the whole margin. */
function refreshAfter(header: unknown): number {
  const lifetimeMs = Number(header) * 1_000;
  if (!Number.isFinite(lifetimeMs) || lifetimeMs <= 0) return unknownLifetimeMs;
  return Math.max(lifetimeMs - marginMs, Math.min(lifetimeMs / 2, marginMs));
}
