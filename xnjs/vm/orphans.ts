import type { Clock } from '#kernel/clock.js';
import { errorText } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import type { Found } from './adopted.js';
import type { DomainMark, MarkedRecord } from './domain-mark.js';
import type { FilesOfMachines } from './files-of-machines.js';
import { localHost, seatKey, type Seat } from './hosts/host.js';
import type { Hypervisor, OwnDomain } from './hypervisor.js';
import { fingerprint } from './parking.js';
import type { TargetStore } from './target-store.js';
import type { Workspace } from './workspace.js';

export type OrphansOptions = {
  readonly hosts: {
    of(seat: Pick<Seat, 'host'>): Pick<Hypervisor, 'remove' | 'find' | 'describe'>;
  };
  readonly installationId: string;
  readonly store: Pick<TargetStore, 'wasRemoved' | 'absenceOf'>;
  readonly workspace: Pick<Workspace, 'remove' | 'list'>;
  readonly files: Pick<FilesOfMachines, 'removeThere'>;
  /** Whether there is a record of it, whatever its host. */
  readonly isKnown: (id: string) => boolean;
  /** Whether another machine has taken its place, or its end was declared: its record says so. */
  readonly isOutlived: (domain: Pick<OwnDomain, 'id' | 'mark'>, seat: Seat) => boolean;
  /** Whether what is found there may become a target system again. */
  readonly mayAdopt: (seat: Seat) => boolean;
  /** Whether its record says that it is there. */
  readonly isAt: (id: string, seat: Seat) => boolean;
  /** Makes it a target system again, where it was found. */
  readonly adopt: (record: MarkedRecord, where: Found) => Promise<void>;
  /** What the file says that holds the memory of a parked machine, if there is one. */
  readonly markOf: (id: string) => Promise<DomainMark | undefined>;
  /** How long one must have been seen as such before anything is done about it. */
  readonly graceMs: number;
  /** @throws when this server may not act any more */
  readonly require: () => Promise<void>;
  readonly clock: Clock;
  readonly log: Log;
};

/** Before the id of one that is files and nothing else: no host has this name. */
const ofFiles = 'files ';

type Verdict = 'adopt' | 'remove' | 'leave';
const verdicts = { lost: 'adopt', removed: 'remove', unclear: 'leave' } as const;

/**
 * Domains of ours that no target system owns. One that we have removed before is a leftover, of a server that
 * was cut off in the middle or did not know yet that it was not in charge: it is removed. One that we know
 * nothing of is what the database has lost: it becomes a target system again, by what it carries with it.
 * What does not carry enough is left alone and told of.
 */
export class Orphans {
  readonly #options: OrphansOptions;
  readonly #sinceMs = new Map<string, number>();
  readonly #left = new Set<string>();

  constructor(options: OrphansOptions) {
    this.#options = options;
  }

  /** Those that are neither ours to remove nor to be adopted. */
  get left(): readonly string[] {
    return [...this.#left];
  }

  /** @param domains all of this installation's on that driver of that host */
  async judge(seat: Seat, domains: readonly OwnDomain[]): Promise<void> {
    const { isAt, clock, graceMs, log } = this.#options;
    const orphans = domains.filter(({ id }) => !isAt(id, seat));
    const prefix = `${seatKey(seat)} `;
    const present = new Set(orphans.map(({ id }) => prefix + id));
    for (const key of this.#sinceMs.keys())
      if (key.startsWith(prefix) && !present.has(key)) this.#forget(key);
    for (const domain of orphans) {
      const key = prefix + domain.id;
      const sinceMs = this.#sinceMs.get(key) ?? clock.now();
      this.#sinceMs.set(key, sinceMs);
      if (clock.now() - sinceMs < graceMs) continue;
      try {
        await this.#settle(seat, domain, key);
      } catch (error) {
        log.warn({ vmId: domain.id, err: errorText(error) }, 'an orphan could not be settled');
      }
    }
  }

  /**
   * Directories of target systems that were removed, and of whose domains nothing is left either.
   * @param present ids of the domains of all hosts
   */
  async sweep(present: ReadonlySet<string>): Promise<void> {
    const { workspace, store, isKnown, require, log } = this.#options;
    const strays = new Set<string>();
    for (const id of await workspace.list()) {
      if (isKnown(id) || present.has(id)) continue;
      if (await store.wasRemoved(id)) {
        await require();
        log.warn({ vmId: id }, 'files of a target system that was removed are removed');
        await workspace.remove(id);
      } else strays.add(id);
    }
    await this.#judgeFiles(strays);
  }

  /** Files of machines that no host has, and of which nothing is known: one may be parked in them. */
  async #judgeFiles(strays: ReadonlySet<string>): Promise<void> {
    const { clock, graceMs, log } = this.#options;
    for (const key of this.#sinceMs.keys())
      if (key.startsWith(ofFiles) && !strays.has(key.slice(ofFiles.length))) this.#forget(key);
    for (const id of strays) {
      const key = ofFiles + id;
      const sinceMs = this.#sinceMs.get(key) ?? clock.now();
      this.#sinceMs.set(key, sinceMs);
      if (clock.now() - sinceMs < graceMs) continue;
      try {
        await this.#settleFiles(id, key);
      } catch (error) {
        log.warn({ vmId: id, err: errorText(error) }, 'files of a machine could not be settled');
      }
    }
  }

  async #settleFiles(id: string, key: string): Promise<void> {
    const { hosts, workspace, adopt, markOf, require, log, installationId, isKnown } =
      this.#options;
    const mark = await markOf(id);
    const record = mark?.installation === installationId ? mark.record : undefined;
    const { host = localHost, driver } = record ?? {};
    const seat = driver && { driver, host };
    const verdict = mark && seat ? await this.#verdict({ id, mark }, seat) : 'leave';
    if (!record || !seat || verdict === 'leave') {
      if (!this.#left.has(key)) log.error({ vmId: id }, 'files of a machine belong to nobody');
      this.#left.add(key);
      return;
    }
    await require();
    if (isKnown(id)) return;
    if (verdict === 'adopt') {
      const parkedOn = fingerprint(await hosts.of(seat).describe(seat.driver));
      log.warn({ vmId: id }, 'a parked machine that the database did not know is adopted');
      await adopt(record, { host, isParked: true, parkedOn });
    } else {
      log.warn({ vmId: id }, 'a parked machine whose target system was removed is removed');
      await workspace.remove(id);
    }
    this.#forget(key);
  }

  async #settle(seat: Seat, domain: OwnDomain, key: string): Promise<void> {
    const { hosts, files, workspace, adopt, require, log, isAt, isKnown } = this.#options;
    const { id, mark } = domain;
    const verdict = await this.#verdict(domain, seat);
    const isParked = verdict === 'adopt' && (await this.#isParked(seat, domain));
    await require();
    // its host may have been taken back meanwhile, or its record be there
    if (isAt(id, seat)) return;
    switch (verdict) {
      case 'adopt':
        log.warn({ vmId: id }, 'a domain of ours that the database did not know is adopted');
        if (mark?.record) await adopt(mark.record, { host: seat.host, isParked });
        this.#forget(key);
        break;
      case 'remove':
        log.warn(
          { vmId: id, ...seat },
          'a domain of ours whose target system has outlived it is removed',
        );
        await hosts.of(seat).remove(seat.driver, id);
        await files.removeThere({ id, host: seat.host });
        if (!isKnown(id)) await workspace.remove(id);
        this.#forget(key);
        break;
      case 'leave':
        if (!this.#left.has(key))
          log.error({ vmId: id, ...seat }, 'a domain of ours belongs to nobody');
        this.#left.add(key);
        break;
    }
  }

  async #isParked({ host, driver }: Seat, { id, state }: OwnDomain): Promise<boolean> {
    if (state !== 'stopped') return false;
    return (await this.#options.hosts.of({ host }).find(driver, id))?.isSaved === true;
  }

  async #verdict(domain: Pick<OwnDomain, 'id' | 'mark'>, seat: Seat): Promise<Verdict> {
    const { isKnown, isOutlived, mayAdopt, store } = this.#options;
    const { id, mark } = domain;
    // of two hosts that have the same machine, who could tell which is right
    if (isKnown(id)) return isOutlived(domain, seat) ? 'remove' : 'leave';
    if (await store.wasRemoved(id)) return 'remove';
    if (mark?.record?.id !== id || !mayAdopt(seat)) return 'leave';
    return verdicts[await store.absenceOf(mark.record.createdMs)];
  }

  #forget(key: string): void {
    this.#sinceMs.delete(key);
    this.#left.delete(key);
  }
}
