import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { open, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import type { Clock } from '#kernel/clock.js';
import { errorText, GridError } from '#kernel/errors.js';
import { unreachable } from './disk-room.js';
import type { Seat } from './hosts/host.js';
import type { DomainView, Hypervisor } from './hypervisor.js';
import { isPassing } from './passing.js';
import { without } from '../job/without.js';
import type { SystemRecords } from './system-records.js';
import type { Evidence, TargetSystem } from './target-system.js';
import type { Workspace } from './workspace.js';

type FileCalls = 'saveMemory' | 'restoreMemory' | 'resume' | 'describe' | 'remove';

export type ParkingOptions = {
  readonly hosts: {
    parksInFiles(seat: Pick<Seat, 'host'>): boolean;
    /** By an administrator's word nothing of it runs any more. */
    isLost(seat: Pick<Seat, 'host'>): boolean;
    of(seat: Pick<Seat, 'host'>): Pick<Hypervisor, 'find' | 'save' | 'restore' | FileCalls>;
  };
  readonly workspace: Pick<Workspace, 'parkedMemory'>;
  readonly records: Pick<SystemRecords, 'applyNow' | 'save'>;
  /** Makes what it is plugged into: the host may have been started anew meanwhile. */
  readonly plugIn: (record: TargetSystem) => Promise<void>;
  /** Takes that away again. */
  readonly unplug: (record: TargetSystem) => Promise<void>;
  /** Lets go of its agent. */
  readonly unbind: (id: string) => Promise<void>;
  /** What is next is done at once. */
  readonly reconcile: (id: string) => Promise<void>;
  /** @throws when this server may not act any more */
  readonly require: () => Promise<void>;
  readonly clock: Clock;
};

/** For so long there must have been nothing of a parked machine before that is believed. */
const believedAfterMs = 20_000;

/**
 * Machines on their way to disk and back. Each step may be repeated at any time, and only from inside the
 * record's queue: how far it came is for the hypervisor to say. As long as a file with a machine's memory is there,
 * and whole, nothing of that machine has run since.
 */
export class Parking {
  readonly #options: ParkingOptions;
  /** Since when there seems to be nothing to bring a machine back from. */
  readonly #missedMs = new Map<string, number>();

  constructor(options: ParkingOptions) {
    this.#options = options;
  }

  /** Its memory goes to disk. */
  async park(record: TargetSystem): Promise<void> {
    const { id, driver } = record;
    const { hosts, unbind, require } = this.#options;
    this.#missedMs.delete(id);
    await unbind(id);
    await require();
    try {
      // also where that began when there were several hosts
      const isInFile = hosts.parksInFiles(record) || record.parkedOn !== undefined;
      const isSaved = isInFile
        ? await this.#saveToFile(record)
        : await hosts.of(record).save(driver, id);
      if (isSaved) await this.#tell(id, 'frozen', 'parked on disk');
      else await this.#tell(id, 'stopped', 'the machine stopped before it was parked');
    } catch (error) {
      if (isPassing(error)) throw error;
      await this.#tell(id, 'thaw', `could not be parked: ${errorText(error)}`, 'server');
    }
    await this.#options.reconcile(id);
  }

  /** @param domain what its host has of it */
  async bringBack(found: TargetSystem, domain?: DomainView): Promise<void> {
    const { id, driver } = found;
    const { hosts, workspace, plugIn, require, reconcile } = this.#options;
    await require();
    const record = await this.#withMemory(found, domain);
    if (!record) {
      await this.#tell(id, 'stopped', 'the machine stopped before it was parked');
      await reconcile(id);
      return;
    }
    try {
      await plugIn(record);
      if (record.parkedOn === undefined) await hosts.of(record).restore(driver, id);
      else
        await hosts
          .of(record)
          .restoreMemory(driver, id, { memory: workspace.parkedMemory(record), isHalted: true });
    } catch (error) {
      if (isPassing(error)) throw error;
      if (record.parkedOn !== undefined) {
        // that took long: by now it may be another server's, and run
        await require();
        await hosts.of(record).remove(driver, id);
      }
      await this.#tell(id, 'frozen', `could not be brought back: ${errorText(error)}`, 'server');
      await reconcile(id);
      return;
    }
    await this.settle(record);
    const evidence = this.#evidence('runs again, from disk', 'hypervisor');
    await this.#options.records.applyNow(id, { type: 'domain', says: 'running', evidence });
    await reconcile(id);
  }

  /**
   * libvirt may have its memory though it was to be put in a file: saved before that, or by somebody else.
   * @returns as which it can be brought back; `undefined`: there is nothing to bring it back from
   */
  async #withMemory(
    record: TargetSystem,
    domain: DomainView | undefined,
  ): Promise<TargetSystem | undefined> {
    if (record.parkedOn === undefined) return record;
    const { hosts, workspace, records } = this.#options;
    const isSaved = domain?.isSaved === true;
    if (await hasMemory(workspace.parkedMemory(record))) {
      // of the same moment: nothing has run since, and it must not be started from that later
      if (isSaved) await hosts.of(record).remove(record.driver, record.id);
      return record;
    }
    if (!isSaved) return undefined;
    const inLibvirt = without(record, 'parkedOn');
    await records.save(inLibvirt);
    return inLibvirt;
  }

  /** Leaves it on disk, unless somebody else has started it, or has taken away what there was to start. */
  async leave(record: TargetSystem): Promise<void> {
    const { id, driver } = record;
    const { hosts, records, unbind, reconcile } = this.#options;
    await unbind(id);
    const isInFile = record.parkedOn !== undefined;
    if (isInFile && !(await this.#isLost(record, undefined))) return;
    // the record may be of a database that was restored: what has become of its machine since, its host knows
    const mayHaveOne = !isInFile || !hosts.isLost(record);
    const domain = mayHaveOne ? await hosts.of(record).find(driver, id) : undefined;
    if (domain && domain.state !== 'stopped') {
      await this.#tell(id, 'thaw', 'the machine was started by somebody else');
      await reconcile(id);
    } else if (isInFile && domain?.isSaved === true) {
      await records.save(without(record, 'parkedOn'));
    } else if (isInFile || (await this.#isLost(record, domain))) {
      await this.#tell(id, 'stopped', 'its saved memory was taken away by somebody else');
      await reconcile(id);
    }
  }

  /** Whether there is nothing to bring it back from, at two looks with some time in between. */
  async #isLost(record: TargetSystem, domain: DomainView | undefined): Promise<boolean> {
    const { workspace, clock } = this.#options;
    const { id, parkedOn } = record;
    const memory = workspace.parkedMemory(record);
    // where the file system is not mounted there are no directories either
    const isThere =
      parkedOn === undefined
        ? domain?.isSaved === true
        : !existsSync(dirname(memory)) || (await isComplete(memory));
    if (isThere) {
      this.#missedMs.delete(id);
      return false;
    }
    const missedMs = this.#missedMs.get(id) ?? clock.now();
    this.#missedMs.set(id, missedMs);
    if (clock.now() - missedMs < believedAfterMs) return false;
    this.#missedMs.delete(id);
    return true;
  }

  /**
   * Where other hosts get at it. That there may be a file is stored first.
   * @returns `false`: it has stopped without
   */
  async #saveToFile(record: TargetSystem): Promise<boolean> {
    const { hosts, workspace, records } = this.#options;
    const { id, driver } = record;
    const hypervisor = hosts.of(record);
    const path = workspace.parkedMemory(record);
    const domain = await hypervisor.find(driver, id);
    requireStill(domain);
    const isWhole = await isComplete(path);
    const hasRun = domain?.state === 'running' || domain?.state === 'stalled';
    // it was about to go on, or a server before us has saved it and got no further: it has not run since
    const isParked = record.parkedOn !== undefined && isWhole && !hasRun;
    const parkedOn = isParked ? record.parkedOn : fingerprint(await hypervisor.describe(driver));
    // libvirt may have its memory, from when there was one host
    const isThere = domain !== undefined && (domain.state !== 'stopped' || domain.isSaved === true);
    // by a server that may act, each time: what is removed then is of no other's making
    if (isThere && isWhole && !isParked) {
      await records.save(record);
      // of an earlier time: once there may be a file, it would be taken for this machine's memory
      await removeForGood(path);
    }
    await records.save({ ...record, parkedOn });
    if (isThere && !isParked) await hypervisor.saveMemory(driver, id, path);
    else if (!(await hasMemory(path))) return false;
    else if (domain) await hypervisor.remove(driver, id);
    // another host may bring it back, and this one may be away by then
    await this.#options.unplug(record);
    return true;
  }

  /**
   * It is there again, and goes on: before, the file is removed, or what it did since could be undone by whoever finds
   * that. May be repeated.
   */
  async settle(record: TargetSystem): Promise<void> {
    if (record.parkedOn === undefined) return;
    const { hosts, workspace, records, require } = this.#options;
    await require();
    await removeForGood(workspace.parkedMemory(record));
    await hosts.of(record).resume(record.driver, record.id);
    await records.save(without(record, 'parkedOn'));
  }

  async #tell(
    id: string,
    type: 'frozen' | 'stopped' | 'thaw',
    fact: string,
    source: Evidence['source'] = 'hypervisor',
  ): Promise<void> {
    await this.#options.records.applyNow(id, { type, evidence: this.#evidence(fact, source) });
  }

  #evidence(fact: string, source: Evidence['source']): Evidence {
    return { source, fact, atMs: this.#options.clock.now() };
  }
}

/**
 * A server before us has asked for its memory to be moved: a second order would fail when the first is done, and a file
 * be taken from under it.
 * @throws `HYPERVISOR_UNAVAILABLE` that is not over yet
 */
export function requireStill(domain: DomainView | undefined): void {
  if (domain?.isMoving)
    throw new GridError('HYPERVISOR_UNAVAILABLE', `libvirt is busy: ${domain.reason}`);
}

/** Also should the power fail. One that is not there is fine. */
export async function removeForGood(path: string): Promise<void> {
  await rm(path, { force: true });
  await using directory = await open(dirname(path));
  await directory.sync();
}

/** Equal on hosts that can restore what the other has saved. */
export function fingerprint(description: string): string {
  return createHash('sha256').update(description).digest('hex');
}

/** libvirt writes this when all is written; before, the last word is `Part`. */
export const completeMagic = 'LibvirtQemudSave';

/**
 * As {@link isComplete}, of a machine that is lost without.
 * @throws `HYPERVISOR_UNAVAILABLE` nothing of it is there: its file system may not be mounted
 */
export async function hasMemory(path: string): Promise<boolean> {
  if (await isComplete(path)) return true;
  if (existsSync(dirname(path))) return false;
  throw unreachable();
}

/** Whether all of a machine's memory is in such a file. */
export async function isComplete(path: string): Promise<boolean> {
  try {
    await using file = await open(path);
    const { buffer } = await file.read(Buffer.alloc(completeMagic.length), 0);
    return buffer.toString('latin1') === completeMagic;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false;
    throw error;
  }
}
