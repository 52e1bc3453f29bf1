import { Backend, type BackendOptions, type LocalServices } from './backend.js';

export type SiteOptions = Omit<BackendOptions, 'address'> & {
  /** As configured; clients may spell it in any case. */
  readonly name: string;
  readonly addresses: readonly string[];
  readonly strategy: keyof typeof strategies;
  readonly healthCheckMs: number;
};

/** Which of the servers that live takes a request; `turn` counts up. */
const strategies = {
  primaryWithFallback: (live: readonly Backend[]) => live[0],
  roundRobin: (live: readonly Backend[], turn: number) => live[turn % live.length],
} as const;

const statusAgeMs = 30_000;
const nobody: ReadonlySet<Backend> = new Set();

/** A site behind the gateway: its servers, how busy it is, whether it lives. */
export class Site {
  readonly options: SiteOptions;
  readonly name: string;
  /** Under way now. */
  active = 0;
  /** So far. */
  requests = 0;
  readonly #backends: readonly Backend[];
  readonly #checks: NodeJS.Timeout | undefined;
  #turn = 0;
  #retired = false;
  #status: Promise<boolean> | undefined;
  #statusAt = 0;

  constructor(options: SiteOptions, local: LocalServices) {
    this.options = options;
    this.name = options.name;
    this.#backends = options.addresses.map(
      (address) => new Backend({ ...options, address }, local.get(address)),
    );
    if (this.#backends.length > 1) {
      this.#checks = setInterval(() => void this.#ping(), options.healthCheckMs);
      this.#checks.unref();
    }
  }

  get isFull(): boolean {
    return this.active >= this.options.maxRequests;
  }

  /** Which of its servers a request goes to. When none seems to live, the first: it may be up again. */
  pick(): Backend {
    const picked = this.another(nobody);
    if (!picked) throw new TypeError('a site without servers');
    return picked;
  }

  /** Where a request goes that `tried` have not seen: one that lives, else one that was down when last looked at. */
  another(tried: ReadonlySet<Backend>): Backend | undefined {
    const untried = this.#backends.filter((backend) => !tried.has(backend));
    const live = untried.filter(({ alive }) => alive);
    return strategies[this.options.strategy](live, this.#turn++) ?? untried[0];
  }

  /** Whether something listens there; asked at most every 30 seconds. */
  isUp(now: number): Promise<boolean> {
    if (!this.#status || now - this.#statusAt > statusAgeMs) {
      this.#statusAt = now;
      this.#status = this.#ping();
    }
    return this.#status;
  }

  /** A request is over. */
  leave(): void {
    this.active--;
    if (this.#retired && this.active === 0) this.close();
  }

  /** No request will come any more; those under way finish. */
  retire(): void {
    this.#retired = true;
    if (this.active === 0) this.close();
  }

  close(): void {
    clearInterval(this.#checks);
    for (const backend of this.#backends) backend.close();
  }

  async #ping(): Promise<boolean> {
    const up = await Promise.all(this.#backends.map((backend) => backend.ping()));
    return up.includes(true);
  }
}

/** Sites by name, whatever the case. */
export class SiteTable {
  readonly #local: LocalServices;
  #sites: ReadonlyMap<string, Site> = new Map();

  constructor(local: LocalServices) {
    this.#local = local;
  }

  find(name: string): Site | undefined {
    return this.#sites.get(name) ?? this.#sites.get(name.toLowerCase());
  }

  all(): Site[] {
    return [...this.#sites.values()];
  }

  /** What is the same as before goes on with its connections and counters; what is gone finishes its requests. */
  replace(definitions: readonly SiteOptions[]): void {
    const before = this.#sites;
    this.#sites = new Map(
      definitions.map((options) => {
        const key = options.name.toLowerCase();
        const known = before.get(key);
        const same = known && JSON.stringify(known.options) === JSON.stringify(options);
        return [key, same ? known : new Site(options, this.#local)];
      }),
    );
    for (const [key, site] of before) if (this.#sites.get(key) !== site) site.retire();
  }

  close(): void {
    for (const site of this.#sites.values()) site.close();
  }
}
