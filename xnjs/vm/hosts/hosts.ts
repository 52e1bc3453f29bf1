import { formatDate } from '#kernel/clock.js';
import { errorText, GridError } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import { createSerial } from '#kernel/persistence/serial.js';
import { without } from '../../job/without.js';
import type { Hypervisor } from '../hypervisor.js';
import type { Driver } from '../target-system.js';
import type { DriverCapabilities } from './capabilities.js';
import { coreSet } from './cores.js';
import { localHost, seatKey, type Host, type Room, type Seat } from './host.js';
import type { HostStorage } from './storage/host-storage.js';

/** What administrators have said of hosts, kept beyond a restart. */
export type DrainStore = {
  get(): Promise<Readonly<Record<string, boolean>>>;
  set(drained: Readonly<Record<string, boolean>>): Promise<void>;
};

/** An administrator's word that a host never comes back, and that nothing runs there any more. */
export type Loss = {
  /** Who has said so. */
  readonly by: string;
  /** ms since the epoch */
  readonly atMs: number;
};

/** By host; kept beyond a restart. */
export type LossStore = {
  get(): Promise<Readonly<Record<string, Loss>>>;
  set(lost: Readonly<Record<string, Loss>>): Promise<void>;
};

export type HostsOptions = {
  readonly hosts: readonly Host[];
  readonly log: Log;
  /** Absent: drained is what the configuration says. */
  readonly drains?: DrainStore;
  /** Absent: none is. */
  readonly losses?: LossStore;
};

/** The hosts of this site, by name. Of each its own hypervisor is asked, and no other. */
export class Hosts implements Disposable {
  readonly #options: HostsOptions;
  readonly #hosts: ReadonlyMap<string, Host>;
  readonly #measured = new Map<string, Room>();
  readonly #measuring = new Set<string>();
  /** By host and driver; what was learnt stays known while it is away. */
  readonly #learnt = new Map<string, DriverCapabilities>();
  readonly #serial = createSerial();
  readonly #unsubscribe: (() => void)[] = [];
  #drained: Readonly<Record<string, boolean>> = {};
  #lost: Readonly<Record<string, Loss>> = {};

  constructor(options: HostsOptions) {
    this.#options = options;
    this.#hosts = new Map(options.hosts.map((host) => [host.name, host]));
  }

  /** Learns what the hosts have, of those that answer. Others are asked as soon as they do. */
  async start(): Promise<void> {
    this.#drained = (await this.#options.drains?.get()) ?? {};
    this.#lost = (await this.#options.losses?.get()) ?? {};
    const first: Promise<void>[] = [];
    for (const host of this.all) {
      await host.storage?.load();
      if (host.storage) first.push(...this.#follow(host, host.storage));
      if (host.learn) this.#unsubscribe.push(this.#learn(host, host.learn));
      if (!host.measure) continue;
      this.#unsubscribe.push(host.hypervisor.onAvailable(() => void this.#measure(host)));
      if (host.hypervisor.available().length > 0) first.push(this.#measure(host));
    }
    await Promise.all(first);
  }

  [Symbol.dispose](): void {
    for (const end of this.#unsubscribe.splice(0)) end();
  }

  get all(): readonly Host[] {
    return [...this.#hosts.values()];
  }

  /** A site with one host says nothing of hosts to its users. */
  get areMany(): boolean {
    return this.#hosts.size > 1;
  }

  /**
   * The hypervisor that has this machine.
   * @throws `HYPERVISOR_UNAVAILABLE` the host is not in the configuration: nothing is known of its machines
   */
  of({ host }: Pick<Seat, 'host'>): Hypervisor {
    const found = this.#hosts.get(host);
    if (found) return found.hypervisor;
    const text = `host ${host} is not in the configuration (hypervisor.hosts)`;
    throw new GridError('HYPERVISOR_UNAVAILABLE', text, { host });
  }

  /** Of a host that does not share this server's files. */
  storageOf({ host }: Pick<Seat, 'host'>): HostStorage | undefined {
    return this.#hosts.get(host)?.storage;
  }

  /** Also the only host that is left gets at what was parked when there were others. */
  sharesFiles(seat: Pick<Seat, 'host'>): boolean {
    return !this.storageOf(seat);
  }

  /** What is parked is put where other hosts can get at it. */
  parksInFiles(seat: Pick<Seat, 'host'>): boolean {
    return this.areMany && this.sharesFiles(seat);
  }

  /** Whether or not they answer. */
  driversOf({ host }: Pick<Seat, 'host'>): readonly Driver[] {
    return this.#hosts.get(host)?.drivers ?? [];
  }

  /** Of a host, those that answer; of one that was declared lost, none. */
  driversUp(seat: Pick<Seat, 'host'>): readonly Driver[] {
    return this.isLost(seat) ? [] : this.answering(seat);
  }

  /** As {@link driversUp}, whatever was declared. */
  answering({ host }: Pick<Seat, 'host'>): readonly Driver[] {
    return this.#hosts.get(host)?.hypervisor.available() ?? [];
  }

  /** All that answer at present, but for those of hosts that were declared lost. */
  seats(): Seat[] {
    return this.all.flatMap(({ name: host }) =>
      this.driversUp({ host }).map((driver) => ({ host, driver })),
    );
  }

  /** Those that answer though their hosts were declared lost. */
  lostSeats(): Seat[] {
    return this.all
      .filter(({ name: host }) => this.isLost({ host }))
      .flatMap(({ name: host }) => this.answering({ host }).map((driver) => ({ host, driver })));
  }

  isUp(seat: Seat): boolean {
    return this.driversUp(seat).includes(seat.driver);
  }

  /** What machines that have no cores of their own run on, in libvirt's form; `undefined`: on all. */
  sharedCores({ host }: Pick<Seat, 'host'>): string | undefined {
    const others = this.#hosts.get(host)?.pinning?.others;
    return others && coreSet(others);
  }

  /** `undefined`: it is bounded, and what it has was not learnt yet. */
  roomOf(host: Host): Room | undefined {
    const { name, capacity, reserved, measure } = host;
    if (!measure) return capacity;
    const measured = this.#measured.get(name);
    if (!measured) {
      // one that answered too late is asked again when somebody wants to know
      if (host.hypervisor.available().length > 0) void this.#measure(host);
      return undefined;
    }
    const free = (key: 'cores' | 'memoryMiB') =>
      capacity[key] ?? Math.max(0, (measured[key] ?? 0) - (reserved[key] ?? 0));
    return { cores: free('cores'), memoryMiB: free('memoryMiB'), diskMiB: capacity.diskMiB };
  }

  /** What machines its driver can run there; `undefined`: it has not told yet. */
  capabilitiesOf(seat: Seat): DriverCapabilities | undefined {
    return this.#learnt.get(seatKey(seat));
  }

  /** Takes no new machines: as an administrator has said, else the configuration. */
  isDrained({ name, drain }: Pick<Host, 'name' | 'drain'>): boolean {
    return this.#drained[name] ?? drain;
  }

  /** As {@link isDrained}. */
  isDrainedAt({ host }: Pick<Seat, 'host'>): boolean {
    const found = this.#hosts.get(host);
    return found !== undefined && this.isDrained(found);
  }

  /** Of a host that was declared lost, whether or not it is configured. */
  lossOf({ host }: Pick<Seat, 'host'>): Loss | undefined {
    return Object.hasOwn(this.#lost, host) ? this.#lost[host] : undefined;
  }

  isLost(seat: Pick<Seat, 'host'>): boolean {
    return this.lossOf(seat) !== undefined;
  }

  /** Stored, then done. @param loss `undefined`: it is taken back */
  async setLoss(name: string, loss: Loss | undefined): Promise<void> {
    await this.#serial('lost', async () => {
      const lost = loss ? { ...this.#lost, [name]: loss } : without(this.#lost, name);
      await this.#options.losses?.set(lost);
      this.#lost = lost;
    });
  }

  /** @throws `NOT_FOUND` naming those that there are */
  require(name: string): void {
    if (this.#hosts.has(name)) return;
    const names = [...this.#hosts.keys()].join(', ');
    throw new GridError('NOT_FOUND', `there is no host ${name}; there are ${names}`);
  }

  /** Stored, then done. @throws `NOT_FOUND` there is no such host */
  async drain(name: string, isDrained: boolean): Promise<void> {
    this.require(name);
    await this.#serial('drained', async () => {
      const drained = { ...this.#drained, [name]: isDrained };
      await this.#options.drains?.set(drained);
      this.#drained = drained;
    });
  }

  onAvailable(listener: (seat: Seat) => void): () => void {
    const ends = this.all.map(({ name, hypervisor }) =>
      hypervisor.onAvailable((driver) => listener({ host: name, driver })),
    );
    return () => ends.forEach((end) => end());
  }

  /** A pool is looked at whenever its host has been away: it may have been started anew. */
  #follow({ hypervisor }: Host, storage: HostStorage): Promise<void>[] {
    this.#unsubscribe.push(hypervisor.onAvailable(() => void storage.check()));
    return hypervisor.available().length > 0 ? [storage.check()] : [];
  }

  /** Of each driver whenever it answers anew: its host may have been changed. Nobody waits for it. */
  #learn({ name, hypervisor }: Host, learn: NonNullable<Host['learn']>): () => void {
    const ask = (driver: Driver): void =>
      void learn(driver).then(
        (found) => this.#learnt.set(seatKey({ host: name, driver }), found),
        (error: unknown) => {
          const about = { host: name, driver, err: errorText(error) };
          this.#options.log.warn(about, 'what machines a host can run was not learnt');
        },
      );
    for (const driver of hypervisor.available()) ask(driver);
    return hypervisor.onAvailable(ask);
  }

  async #measure({ name, measure }: Host): Promise<void> {
    if (!measure || this.#measuring.has(name)) return;
    this.#measuring.add(name);
    try {
      this.#measured.set(name, await measure());
    } catch (error) {
      this.#options.log.warn({ host: name, err: errorText(error) }, 'a host was not measured');
    } finally {
      this.#measuring.delete(name);
    }
  }
}

/** A site whose only host is that of this server. */
export function oneHost(
  hypervisor: Hypervisor,
  log: Log,
  drivers: readonly Driver[] = ['qemu'],
): Hosts {
  const none = { drivers, labels: [], drain: false, capacity: {}, reserved: {} };
  return new Hosts({ hosts: [{ name: localHost, hypervisor, ...none }], log });
}

/** For messages: of a site with one host, nothing; of a host with several drivers, which. */
export function whereText(
  hosts: Pick<Hosts, 'areMany' | 'driversOf'>,
  { host, driver }: Seat,
): string {
  if (!hosts.areMany) return '';
  return `host ${host}${hosts.driversOf({ host }).length > 1 ? ` (${driver})` : ''}: `;
}

/** For messages and evidence. */
export function lossText({ by, atMs }: Loss): string {
  return `declared lost by ${by} at ${formatDate(atMs)}`;
}
