import { X509Certificate, type KeyObject } from 'node:crypto';
import { z } from 'zod';
import type { Clock } from '#kernel/clock.js';
import { errorText } from '#kernel/errors.js';
import { createHttpClient, type HttpClient } from '#kernel/http/client.js';
import type { Log } from '#kernel/log.js';
import { dnKey, formatDn, subjectDn } from '#kernel/security/dn.js';
import { algorithmOf } from '#kernel/security/tokens.js';
import type { RegistryEntry } from './entries.js';
import type { ExternalRegistry } from './publisher.js';

export type ServerKeysOptions = {
  /** Registries elsewhere whose word about the keys of servers counts. */
  readonly registries: readonly ExternalRegistry[];
  /** Entries here that count likewise; none where this registry is not to be trusted so far. */
  readonly own: () => readonly Pick<RegistryEntry, 'ownerDn' | 'content'>[];
  readonly clock: Clock;
  readonly log: Log;
  readonly timeoutMs?: number;
};

/** A registry is read again so often (unicore-rest 2.4). */
const intervalMs = 60_000;
/** What one has said counts for so long while it does not answer: entries live no longer by default. */
const staleMs = 1_800_000;
const maxEntries = 10_000;

const Entries = z.looseObject({
  entries: z
    .array(
      z.looseObject({
        ServerIdentity: z.string().max(1_024).optional(),
        ServerPublicKey: z.string().max(65_536).optional(),
      }),
    )
    .max(maxEntries),
});
type Entry = z.output<typeof Entries>['entries'][number];

/** Certificates by the key of their subject's name. */
type Keys = ReadonlyMap<string, readonly X509Certificate[]>;

/**
 * Keys by which other servers sign their word for users, as registries tell of them. Their owners come and
 * go, and renew them, without a change here.
 */
export class ServerKeys implements AsyncDisposable {
  readonly #options: ServerKeysOptions;
  readonly #log: Log;
  readonly #known = new Map<string, { readonly keys: Keys; readonly untilMs: number }>();
  readonly #closing = new AbortController();
  readonly #loops: Promise<void>[];

  constructor(options: ServerKeysOptions) {
    this.#options = options;
    this.#log = options.log.child({ part: 'targetsystem.registry' });
    this.#loops = options.registries.map((registry) => this.#follow(registry));
  }

  /** @param issuer `dnKey` of a server's name */
  readonly of = (issuer: string): KeyObject[] => {
    const { clock, own } = this.#options;
    const now = clock.now();
    const heard = [...this.#known.values()]
      .filter(({ untilMs }) => untilMs > now)
      .map(({ keys }) => keys);
    // what somebody adds here is proof of his own key only
    const added = own().filter(({ ownerDn }) => keyOf(ownerDn) === issuer);
    const all = [toKeys(added.map(({ content }) => content)), ...heard];
    return all
      .flatMap((keys) => keys.get(issuer) ?? [])
      .filter(({ validFrom, validTo }) => Date.parse(validFrom) <= now && now < Date.parse(validTo))
      .map(({ publicKey }) => publicKey);
  };

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing.abort();
    await Promise.all(this.#loops);
  }

  async #follow({ url, ca }: ExternalRegistry): Promise<void> {
    const { clock, timeoutMs = 15_000 } = this.#options;
    const { signal } = this.#closing;
    const tls = ca === undefined ? {} : { tls: { ca } };
    await using client = createHttpClient({ baseUrl: url, timeoutMs, connections: 1, ...tls });
    for (let failures = 0; !signal.aborted;) {
      try {
        this.#known.set(url, await this.#read(client));
        failures = 0;
      } catch (error) {
        if (!this.#closing.signal.aborted && failures++ === 0)
          this.#log.warn({ peer: url, err: errorText(error) }, 'registry tells no keys of servers');
      }
      await clock.sleep(intervalMs, signal).catch(() => undefined);
    }
  }

  async #read(client: HttpClient): Promise<{ keys: Keys; untilMs: number }> {
    const { body } = await client.json('GET', '', undefined, { signal: this.#closing.signal });
    const keys = toKeys(Entries.parse(body).entries);
    return { keys, untilMs: this.#options.clock.now() + staleMs };
  }
}

/** Services of one server have the same key each. What is no certificate, or of somebody else, counts for nothing. */
function toKeys(entries: readonly Entry[]): Keys {
  const keys = new Map<string, X509Certificate[]>();
  const seen = new Set<string>();
  for (const { ServerIdentity: identity, ServerPublicKey: pem } of entries) {
    if (identity === undefined || pem === undefined || seen.has(pem)) continue;
    const certificate = readCertificate(pem, identity);
    if (!certificate) continue;
    seen.add(pem);
    const name = keyOf(identity);
    keys.set(name, [...(keys.get(name) ?? []), certificate]);
  }
  return keys;
}

function readCertificate(pem: string, identity: string): X509Certificate | undefined {
  try {
    const certificate = new X509Certificate(pem);
    algorithmOf(certificate.publicKey);
    return dnKey(formatDn(subjectDn(certificate))) === keyOf(identity) ? certificate : undefined;
  } catch {
    return undefined; // no certificate, or of a key that signs no tokens
  }
}

/** Empty for what is no name. */
function keyOf(name: string): string {
  try {
    return dnKey(name);
  } catch {
    return '';
  }
}
