import type { Clock } from '#kernel/clock.js';
import { errorText } from '#kernel/errors.js';
import type { Hosts } from '../hosts/hosts.js';
import { fingerprint, requireStill } from '../parking.js';
import { isPassing } from '../passing.js';
import type { VmEvent } from '../state.js';
import type { TargetSystem } from '../target-system.js';
import { findSnapshot, withSnapshot, type Snapshot } from './snapshot.js';
import type { SnapshotFiles } from './snapshot-files.js';

export type KeepingOptions = {
  readonly hosts: Pick<Hosts, 'of' | 'isLost'>;
  readonly filesOf: (record: TargetSystem) => SnapshotFiles;
  readonly records: {
    find(id: string): TargetSystem | undefined;
    applyNow(id: string, event: VmEvent): Promise<void>;
    save(record: TargetSystem): Promise<void>;
  };
  /** Lets go of its agent, and of all connections to it. */
  readonly unbind: (id: string) => Promise<void>;
  /** What is next is done at once. */
  readonly reconcile: (id: string) => Promise<void>;
  /** What it has used is read once more before it is gone. */
  readonly measureLast: (record: TargetSystem) => Promise<void>;
  /** It has a machine again, though it had none. */
  readonly measureAgain: (id: string) => Promise<void>;
  /** What its machine is connected to on this host is there. */
  readonly plugIn: (record: TargetSystem) => Promise<void>;
  /** @throws when this server may not act any more */
  readonly require: () => Promise<void>;
  readonly clock: Clock;
};

/**
 * Machines whose state is kept on disk, or that are put back to one (ADR 037). As in parking, each step may be
 * repeated, from inside the record's queue: how far it came is for record, hypervisor and files to say.
 */
export class Keeping {
  readonly #options: KeepingOptions;

  constructor(options: KeepingOptions) {
    this.#options = options;
  }

  /** Goes on with what the record says. */
  async perform(record: TargetSystem): Promise<void> {
    const { undertaking } = record;
    if (!undertaking) return;
    const snapshot = findSnapshot(record, undertaking.snapshotId);
    await this.#options.unbind(record.id);
    if (!snapshot) await this.#resume(record, 'the snapshot is gone');
    else if (undertaking.do === 'snapshot' && snapshot.isDiskOnly)
      await this.#keepDisk(record, snapshot);
    else if (undertaking.do === 'snapshot') await this.#keep(record, snapshot);
    else await this.#putBack(record, snapshot);
  }

  /** Those that are to go: files first. */
  async sweep(record: TargetSystem): Promise<void> {
    for (const { id, state } of record.snapshots ?? []) {
      if (state !== 'REMOVING' && state !== 'FAILED') continue;
      await this.#options.filesOf(record).remove(record, id);
      if (state === 'FAILED') continue;
      const now = this.#options.records.find(record.id);
      if (now) await this.#options.records.save(withSnapshot(now, id, undefined));
    }
  }

  async #keep(record: TargetSystem, snapshot: Snapshot): Promise<void> {
    const files = this.#options.filesOf(record);
    let { failure } = record.undertaking ?? {};
    // a complete one stays as it is: memory that is saved once more would not fit its disk
    if (failure === undefined && snapshot.state !== 'READY')
      try {
        if (!(await this.#save(record, snapshot))) {
          await this.#tell(record.id, 'stopped', 'the machine stopped before its memory was saved');
          await this.#options.reconcile(record.id);
          return;
        }
        await files.keepDisk(record, snapshot.id);
        await this.#complete(record, snapshot);
      } catch (error) {
        failure = await this.#giveUp(record, error);
      }
    if (!(await this.#start(record, snapshot))) return;
    if (failure === undefined) {
      await this.#resume(record, `the snapshot "${snapshot.name}" was taken`);
    } else {
      await files.remove(record, snapshot.id);
      const news = { state: 'FAILED', message: failure, sizeMiB: 0 } as const;
      await this.#resume(record, `no snapshot was taken: ${failure}`, news);
    }
  }

  /** Of a machine that is proven to be off, and stays so. */
  async #keepDisk(record: TargetSystem, snapshot: Snapshot): Promise<void> {
    const { filesOf, records, require, clock } = this.#options;
    const files = filesOf(record);
    let { failure } = record.undertaking ?? {};
    if (failure === undefined && snapshot.state !== 'READY')
      try {
        await require();
        await files.begin(record, snapshot.id);
        await files.dropDisk(record, snapshot.id);
        await files.requireRoom(record, snapshot.sizeMiB);
        const now = records.find(record.id) ?? record;
        await records.save(withSnapshot(now, snapshot.id, { atMs: clock.now() }));
        await files.keepDisk(record, snapshot.id);
        await this.#complete(record, snapshot);
      } catch (error) {
        failure = await this.#giveUp(record, error);
      }
    if (failure !== undefined) await files.remove(record, snapshot.id);
    const news = { state: 'FAILED', message: failure ?? '', sizeMiB: 0 } as const;
    await this.#resume(
      record,
      `the snapshot "${snapshot.name}" of its disk was taken`,
      failure === undefined ? undefined : news,
    );
  }

  /** Stored before the machine goes on: what it does from then on is not in the snapshot. */
  async #complete(record: TargetSystem, { id }: Snapshot): Promise<void> {
    const { filesOf, records } = this.#options;
    const sizeMiB = await filesOf(record).sizeMiB(record, id);
    const now = records.find(record.id) ?? record;
    await records.save(withSnapshot(now, id, { state: 'READY', sizeMiB }));
  }

  /** @returns `false`: the machine has stopped without */
  async #save(record: TargetSystem, snapshot: Snapshot): Promise<boolean> {
    const { hosts, filesOf, records, require, measureLast, clock } = this.#options;
    const { id, driver } = record;
    const files = filesOf(record);
    await files.begin(record, snapshot.id);
    const store = async (host: string): Promise<void> => {
      const moment = { atMs: clock.now(), host };
      await records.save(withSnapshot(records.find(id) ?? record, snapshot.id, moment));
    };
    if (isParkedInFile(record)) {
      await store(record.parkedOn);
      await files.parked?.keep(record, snapshot.id);
      return true;
    }
    const hypervisor = hosts.of(record);
    if (await this.#isSaved(record, snapshot)) return true;
    // of an earlier moment than the memory that comes
    await files.dropDisk(record, snapshot.id);
    await files.requireRoom(record, snapshot.sizeMiB);
    await store(fingerprint(await hypervisor.describe(driver)));
    await measureLast(record);
    await require();
    try {
      const path = await files.memoryOf(record, snapshot.id);
      if (await hypervisor.saveMemoryTo(driver, id, path)) return true;
    } catch (error) {
      if (isPassing(error) || !(await this.#isSaved(record, snapshot))) throw error;
    }
    // an order whose answer was lost was still being carried out, and this one came too late
    return await this.#isSaved(record, snapshot);
  }

  /** Its process ends only when all of its memory is in the file. */
  async #isSaved(record: TargetSystem, snapshot: Snapshot): Promise<boolean> {
    const { hosts, filesOf } = this.#options;
    const domain = await hosts.of(record).find(record.driver, record.id);
    if (domain?.state !== 'stopped' || domain.isSaved === true) return false;
    return await filesOf(record).isSaved(record, snapshot.id);
  }

  async #putBack(record: TargetSystem, snapshot: Snapshot): Promise<void> {
    const { filesOf, hosts, records, require, measureLast } = this.#options;
    const { id, driver, undertaking } = record;
    const files = filesOf(record);
    if (undertaking?.isFenced !== true) {
      const failure = undertaking?.failure ?? (await this.#lay(record, snapshot));
      if (failure !== undefined) {
        await files.dropLaid(record);
        await this.#stay(record, `it was not put back: ${failure}`);
        return;
      }
      await measureLast(record);
      await require();
      // of one that is parked in a file no domain is left, and nobody tells so any more
      const isParkedOfLost = isParkedInFile(record) && hosts.isLost(record);
      if (!isParkedOfLost) await hosts.of(record).end(driver, id);
      await this.#tell(id, 'fenced', 'the former machine is gone');
    }
    const fenced = records.find(id);
    // its jobs are told what becomes of them before the machine runs
    if (!fenced?.undertaking || fenced.reverted?.step === 'tell') return;
    const isParked = isParkedInFile(fenced);
    const domain = isParked ? undefined : await hosts.of(record).find(driver, id);
    if (!domain || (domain.state === 'stopped' && domain.isSaved !== true))
      await files.putDisk(fenced, snapshot.id);
    if (isParked) await files.parked?.put(fenced, snapshot.id);
    if (snapshot.isDiskOnly) await this.#options.measureAgain(id);
    else if (!(await this.#start(fenced, snapshot))) return;
    const date = new Date(snapshot.atMs ?? snapshot.createdMs).toISOString();
    const fact = `was put back to the snapshot "${snapshot.name}" of ${date}`;
    await this.#resume(fenced, fact);
  }

  /** @returns why it cannot be, before anything was taken from the machine that there is */
  async #lay(record: TargetSystem, snapshot: Snapshot): Promise<string | undefined> {
    try {
      const files = this.#options.filesOf(record);
      await files.layDisk(record, snapshot.id);
      if (isParkedInFile(record)) await files.parked?.lay(record, snapshot.id);
      return undefined;
    } catch (error) {
      return await this.#giveUp(record, error);
    }
  }

  /**
   * From the memory of the snapshot, unless it runs, or was never stopped; once, while a snapshot is taken: its disk goes
   * on from there. @returns whether it is there again
   */
  async #start(record: TargetSystem, snapshot: Snapshot): Promise<boolean> {
    const { hosts, filesOf, require, plugIn, measureAgain, reconcile } = this.#options;
    const { id, driver, desired } = record;
    if (isParkedInFile(record)) return true;
    const hypervisor = hosts.of(record);
    const domain = await hypervisor.find(driver, id);
    requireStill(domain);
    const park = desired === 'suspended';
    const isParked = domain?.isSaved === true;
    const isThere = domain !== undefined && (domain.state !== 'stopped' || isParked);
    // one that was parked and could not be parked again runs
    const isDone = isThere && (isParked === park || domain.state === 'running');
    if (isDone && domain.state !== 'paused') return true;
    await require();
    try {
      if (!isDone) {
        if (hasRunSince(record)) throw new Error(domain?.reason ?? 'the domain no longer exists');
        await plugIn(record);
        await measureAgain(id);
        const memory = await filesOf(record).memoryOf(record, snapshot.id);
        await hypervisor.startFromMemory(driver, id, memory, park);
      }
      if (!park) await this.#letGo(record);
      return true;
    } catch (error) {
      if (isPassing(error)) throw error;
      await this.#tell(
        id,
        'stopped',
        hasRunSince(record)
          ? errorText(error)
          : `could not be started from saved memory: ${errorText(error)}`,
      );
      await reconcile(id);
      return false;
    }
  }

  /** Stored before it runs: should it end, its disk is not that of its memory any more. */
  async #letGo({ id, driver, ...record }: TargetSystem): Promise<void> {
    const { hosts, records } = this.#options;
    const now = records.find(id);
    if (now?.undertaking)
      await records.save({ ...now, undertaking: { ...now.undertaking, isStarted: true } });
    await hosts.of(record).resume(driver, id);
  }

  /** Stored, so that nobody tries again. @returns why */
  async #giveUp({ id }: TargetSystem, error: unknown): Promise<string> {
    if (isPassing(error)) throw error;
    const { records } = this.#options;
    const failure = errorText(error).slice(0, 500);
    const record = records.find(id);
    if (record?.undertaking)
      await records.save({ ...record, undertaking: { ...record.undertaking, failure } });
    return failure;
  }

  /** It goes on as it is, if there is still a machine that can. */
  async #stay(record: TargetSystem, fact: string): Promise<void> {
    const { hosts, reconcile } = this.#options;
    const { id, driver } = record;
    const domain = await hosts.of(record).find(driver, id);
    const isThere = domain !== undefined && (domain.state !== 'stopped' || domain.isSaved === true);
    if (isThere || isParkedInFile(record)) {
      await this.#resume(record, fact);
      return;
    }
    await this.#tell(id, 'stopped', fact);
    await reconcile(id);
  }

  async #resume({ id }: TargetSystem, fact: string, snapshot?: Partial<Snapshot>): Promise<void> {
    const evidence = { source: 'server', fact, atMs: this.#options.clock.now() } as const;
    const news = snapshot && { snapshot };
    await this.#options.records.applyNow(id, { type: 'resumed', evidence, ...news });
    await this.#options.reconcile(id);
  }

  async #tell(id: string, type: 'stopped' | 'fenced', fact: string): Promise<void> {
    const evidence = { source: 'hypervisor', fact, atMs: this.#options.clock.now() } as const;
    await this.#options.records.applyNow(id, { type, evidence });
  }
}

/** What was saved of it is older than its disk. */
function hasRunSince({ undertaking }: TargetSystem): boolean {
  return undertaking?.do === 'snapshot' && undertaking.isStarted === true;
}

/** No host has a domain of it, and there is nothing that would have to be saved or started. */
function isParkedInFile(
  record: TargetSystem,
): record is TargetSystem & { readonly parkedOn: string } {
  return record.state === 'SUSPENDED' && record.parkedOn !== undefined;
}
