import { rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { Clock } from '#kernel/clock.js';
import { errorText, GridError } from '#kernel/errors.js';
import { without } from '../../job/without.js';
import { hasMemory } from '../parking.js';
import type { Outcomes } from '../parking-orders.js';
import { mayRecover, type Refuge } from '../recovery.js';
import { hasDisk } from '../snapshots/snapshot-files.js';
import { lastSnapshot } from '../snapshots/snapshot.js';
import type { SystemRecords } from '../system-records.js';
import type { Evidence, TargetSystem } from '../target-system.js';
import { isAlive } from '../views.js';
import type { Workspace } from '../workspace.js';
import { localHost, type Seat } from './host.js';
import type { HostPlacement } from './host-placement.js';
import { lossText, type Hosts } from './hosts.js';
import { equalHosts } from './rehosting.js';

export type LostHostsOptions = {
  readonly hosts: Hosts;
  readonly places: HostPlacement;
  readonly records: Pick<
    SystemRecords,
    'all' | 'find' | 'queue' | 'applyNow' | 'save' | 'schedule'
  >;
  readonly workspace: Pick<Workspace, 'directoryOf' | 'parkedMemory'>;
  /** Spares and saved memory: there may be nothing else of a host that is not configured any more. */
  readonly nobodys: () => Iterable<Pick<Seat, 'host'>>;
  /** @throws when this server may not act any more */
  readonly require: () => Promise<void>;
  readonly clock: Clock;
};

type Found = { readonly refuge?: Refuge; readonly release: () => void; readonly why: string };

/**
 * Hosts that never come back. No silence proves that (ADR 34), so an administrator has to say it (ADR 47): then what
 * was there has ended, and goes on elsewhere if its recovery says so and its files are not lost with the host.
 */
export class LostHosts {
  readonly #options: LostHostsOptions;

  constructor(options: LostHostsOptions) {
    this.#options = options;
  }

  /**
   * The word is stored before anything follows from it, and may be repeated.
   * @returns what becomes of each target system there
   * @throws `BAD_REQUEST` it is this server's own; `NOT_FOUND` there is no such host; `CONFLICT` it answers
   */
  async declare(host: string, by: string): Promise<Outcomes> {
    const { hosts, records, nobodys, require, clock } = this.#options;
    if (host === localHost)
      throw new GridError('BAD_REQUEST', `host: ${localHost} is the server's own`);
    const isNamed = (): boolean =>
      [...records.all(), ...nobodys()].some((record) => record.host === host);
    if (!isNamed()) hosts.require(host);
    const answering = hosts.answering({ host });
    if (answering.length > 0)
      throw new GridError(
        'CONFLICT',
        `host: ${host} answers (${answering.join(', ')}): it is not lost`,
      );
    await require();
    if (!hosts.isLost({ host })) await hosts.setLoss(host, { by, atMs: clock.now() });
    const outcomes: Record<string, string> = {};
    for (const { id } of [...records.all()].filter((record) => record.host === host))
      outcomes[id] = await this.#settleNow(id).catch(errorText);
    return outcomes;
  }

  /** It counts as any other again; what ended with it stays ended. @throws `NOT_FOUND` it was not declared lost */
  async takeBack(host: string): Promise<void> {
    const { hosts, records, require } = this.#options;
    if (!hosts.isLost({ host }))
      throw new GridError('NOT_FOUND', `host: ${host} was not declared lost`);
    await require();
    await hosts.setLoss(host, undefined);
    for (const record of records.all()) if (record.host === host) records.schedule(record.id);
  }

  async #settleNow(id: string): Promise<string> {
    const { records } = this.#options;
    await records.queue(id, () => this.settle(id));
    records.schedule(id);
    const record = records.find(id);
    return record ? `${record.state}: ${record.evidence.fact}` : 'is gone';
  }

  /**
   * What the loss of its host makes of a target system, and what is left of that when it is taken back: once for each,
   * also after a restart. Only from inside the record's queue.
   */
  async settle(id: string): Promise<void> {
    const { hosts, records, workspace, clock } = this.#options;
    const record = records.find(id);
    if (!record) return;
    const loss = hosts.lossOf(record);
    if (!loss) {
      if (record.lostWithHost) await records.save(without(record, 'lostWithHost'));
      return;
    }
    if (isOnDiskOnly(record)) return;
    const evidence = (fact: string): Evidence => ({ source: 'user', fact, atMs: clock.now() });
    const word = `host ${record.host} was ${lossText(loss)}, whose word alone it is that nothing runs there any more`;
    if (await this.#hasReachedDisk(record)) {
      await records.applyNow(id, { type: 'frozen', evidence: evidence(`parked on disk; ${word}`) });
      return;
    }
    const filesLost = hosts.storageOf(record) !== undefined;
    const { refuge, release, why } = await this.#refugeOf(record);
    try {
      const fact = [word, why].filter(Boolean).join('; ');
      const place = refuge && { refuge };
      await records.applyNow(id, {
        type: 'hostLost',
        evidence: evidence(fact),
        filesLost,
        ...place,
      });
      // of an earlier time than the machine that comes
      if (refuge) await rm(workspace.parkedMemory(record), { force: true });
    } finally {
      release();
    }
  }

  /**
   * All of its memory is in a file that all hosts get at, on the way to disk or back: then it has not run since, and
   * only the host's word of that is missing.
   */
  async #hasReachedDisk(record: TargetSystem): Promise<boolean> {
    if (record.parkedOn === undefined || record.undertaking || !isAlive(record)) return false;
    return await hasMemory(this.#options.workspace.parkedMemory(record));
  }

  /** Where it goes on, and what there is to be said of that. */
  async #refugeOf(record: TargetSystem): Promise<Found> {
    const { hosts, places, clock } = this.#options;
    const none = (why: string): Found => ({ release: () => undefined, why });
    if (!mayRecover(record, clock.now())) return none('');
    if (!(await this.#hasFilesHere(record)))
      return none('not started again: its disk was there only');
    const others = hosts.all.filter((each) => !hosts.isLost({ host: each.name }));
    const isBound = needsSharedFiles(record);
    const among = others.filter(({ storage }) => !(isBound && storage)).map(({ name }) => name);
    const equal = await this.#thatCanRestore(record);
    const labels = record.hostLabels && { labels: record.hostLabels, field: 'hostLabels' };
    try {
      const canRestore = equal.length > 0;
      const { release, ...place } = places.hold(
        record.id,
        record,
        labels,
        canRestore ? equal : among,
      );
      return { refuge: { ...place, canRestore }, release, why: `goes on on host ${place.host}` };
    } catch (error) {
      return none(`not started again: ${errorText(error)}`);
    }
  }

  /** Equal hosts that get at the memory of its last snapshot; none: there is none, or it is to be booted. */
  async #thatCanRestore(record: TargetSystem): Promise<string[]> {
    const snapshot = record.recovery === 'restore' ? lastSnapshot(record) : undefined;
    const { hosts } = this.#options;
    if (snapshot?.host === undefined || hosts.storageOf(record)) return [];
    // its definition, which goes with the memory, names those of that host
    if (record.cores) return [];
    return await equalHosts(record, snapshot.host, hosts);
  }

  /** What the machine had written is in this server's directory; one without a disk has written nothing. */
  async #hasFilesHere(record: TargetSystem): Promise<boolean> {
    if (!needsSharedFiles(record)) return true;
    const directory = this.#options.workspace.directoryOf(record.id);
    const file = hasDisk(record) ? join(directory, 'overlay.qcow2') : directory;
    return (await stat(file).catch(() => undefined)) !== undefined;
  }
}

/** What it is made of, beside its image, is in files that outlive its process. */
function needsSharedFiles(record: TargetSystem): boolean {
  return hasDisk(record) || record.driver === 'lxc' || record.volumes !== undefined;
}

/** No host has a domain of it: it goes on wherever its memory can be restored. */
function isOnDiskOnly({ state, parkedOn }: Pick<TargetSystem, 'state' | 'parkedOn'>): boolean {
  return state === 'SUSPENDED' && parkedOn !== undefined;
}

/**
 * Of a domain that is on a host where its record does not expect it: whether it has been outlived. On one that was declared
 * lost it has where its target system goes on elsewhere, or can from a file.
 */
export function isOutlived(
  record: Pick<TargetSystem, 'host' | 'state' | 'generation' | 'parkedOn'>,
  domain: {
    readonly host: string;
    readonly generation: number | undefined;
    readonly isLost: boolean;
  },
): boolean {
  if (record.host === domain.host)
    return domain.isLost && (record.state === 'FAILED' || isOnDiskOnly(record));
  if (domain.isLost) return true;
  return domain.generation !== undefined && domain.generation < (record.generation ?? 1);
}
