import { randomUUID } from 'node:crypto';
import type { Clock } from '#kernel/clock.js';
import { errorText, GridError } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import { createSerial } from '#kernel/persistence/serial.js';
import { OwnedRecords, type RecordStore } from '../../data/owned-records.js';
import { without } from '../../job/without.js';
import type { Mortals } from '../../reaper.js';
import type { CountsFor, Quota } from '../placement/quota.js';
import { VmError } from '../state.js';
import type { TargetSystem } from '../target-system.js';
import { inUse, type VolumeFiles } from './volume-files.js';
import type { Volume } from './volume.js';

/** The durable records. What a promise has answered for would survive a power cut. */
export type VolumeStore = RecordStore<Volume> & {
  /** A new one takes from the quotas in the same transaction. @throws `QUOTA_EXCEEDED` */
  create(volume: Volume, quotas: readonly Quota[]): Promise<void>;
};

export type VolumesOptions = {
  readonly store: VolumeStore;
  readonly files: VolumeFiles;
  /** The most that a user has. */
  readonly perUser: number;
  readonly largestMiB: number;
  readonly quotasFor: (volume: Pick<Volume, 'ownerDn' | 'countsFor'>) => readonly Quota[];
  /** What is known of those that have them. */
  readonly targets: {
    /** To this server. */
    isKnown(id: string): boolean;
    /** In the database. */
    isStored(id: string): Promise<boolean>;
    /** All hosts have told what they have, and none has its machine. */
    isNowhere(id: string): boolean;
  };
  /** @throws when this server may not act any more */
  readonly require: () => Promise<void>;
  readonly clock: Clock;
  readonly log: Log;
};

/** By then a commit whose answer was lost has been done, or will not be. */
const lateMs = 10_000;

export type NewVolume = Pick<Volume, 'ownerDn' | 'name' | 'sizeMiB'> & {
  readonly countsFor?: CountsFor;
  readonly tags?: readonly string[];
  readonly terminationMs?: number | undefined;
};

/** Volumes that outlive machines (ADR 040): each is one machine's at a time, until that is proven gone. */
export class Volumes {
  readonly records: OwnedRecords<Volume>;
  readonly #options: VolumesOptions;
  readonly #log: Log;
  /** By owner: names are looked for and taken, and volumes attached, in one piece. */
  readonly #serial = createSerial();
  /** Those whose files are going at present. */
  readonly #removing = new Set<string>();
  /** Target systems that are being made, or just were, by when they are what the database says; ms since the epoch. */
  readonly #beginning = new Map<string, number>();

  constructor(options: VolumesOptions) {
    const { store, perUser, quotasFor } = options;
    this.#options = options;
    this.#log = options.log.child({ part: 'xnjs.vm.volumes' });
    this.records = new OwnedRecords<Volume>({
      store: {
        all: () => store.all(),
        remove: (id) => store.remove(id),
        save: async (volume) =>
          this.records.find(volume.id)
            ? await store.save(volume)
            : await store.create(volume, quotasFor(volume)),
      },
      what: 'volume',
      perUser,
      isGone: ({ isRemoving }) => isRemoving === true,
    });
  }

  /** Before anything is done with these. What a crash has cut off is finished. */
  async load(systems: readonly TargetSystem[]): Promise<void> {
    const all = await this.records.load();
    const attempt = async (about: object, work: () => Promise<void>): Promise<void> => {
      await work().catch((error: unknown) => {
        this.#log.warn({ ...about, err: errorText(error) }, 'a volume was left as it is');
      });
    };
    for (const system of systems) await attempt({ vmId: system.id }, () => this.restore(system));
    for (const { id } of all)
      await attempt({ volume: id }, async () => {
        await this.#findHolder(id);
        await this.#settle(id);
      });
  }

  /** What a machine has is its target system's, whatever became of the database. */
  async restore({ id, ownerDn, volumes = [], createdMs, state }: TargetSystem): Promise<void> {
    if (state === 'DESTROYING') return; // it may have given them back already
    const { store, files } = this.#options;
    for (const { volumeId, name, sizeMiB } of volumes) {
      if (volumeId === undefined) continue;
      await this.#serial(ownerDn, async () => {
        const attachedTo = await files.hold(volumeId, id);
        if (attachedTo !== id)
          this.#log.error({ volume: volumeId, vmId: id }, 'another target system has its volume');
        if (this.records.find(volumeId)) await this.#setHolder(volumeId, attachedTo);
        else {
          const lost = { id: volumeId, ownerDn, name, sizeMiB, tags: [], createdMs };
          const found: Volume = { ...lost, attachedTo, wasUsed: true };
          await store.create(found, []);
          this.records.show(found);
        }
      });
    }
  }

  /** By its own files: of a database that was restored the record may be older. */
  async #findHolder(id: string): Promise<void> {
    const holder = await this.#options.files.holderOf(id);
    if (holder !== undefined) await this.#setHolder(id, holder);
  }

  async #setHolder(id: string, attachedTo: string): Promise<void> {
    await this.records.update(id, (volume) =>
      volume.attachedTo === attachedTo ? volume : { ...volume, attachedTo },
    );
  }

  latestTerminationMs(): number {
    return Infinity;
  }

  /** The owner's, by its id or its name. */
  findOf(ownerDn: string, reference: string): Volume | undefined {
    const mine = [...this.records.all()].filter(
      (volume) => volume.ownerDn === ownerDn && volume.isRemoving !== true,
    );
    return mine.find(({ id }) => id === reference) ?? mine.find(({ name }) => name === reference);
  }

  /** @throws `CONFLICT` the name is taken; `BAD_REQUEST`, `LIMIT_REACHED`, `QUOTA_EXCEEDED` */
  async create(wish: NewVolume): Promise<Volume> {
    const { largestMiB } = this.#options;
    if (wish.sizeMiB > largestMiB)
      throw new VmError(
        'BAD_REQUEST',
        `sizeMiB: ${wish.sizeMiB} MiB is above ${largestMiB}, the largest on this site`,
      );
    return await this.#serial(wish.ownerDn, () => this.#add(wish, randomUUID()));
  }

  /**
   * Stores which machine has them, before that is stored itself; those that are to be made are made. All of them or
   * none.
   * @param newVolumes ids of those
   * @throws as {@link create}; `CONFLICT` another has one of them
   */
  async attach(system: TargetSystem, newVolumes: readonly string[]): Promise<void> {
    const kept = (system.volumes ?? []).filter(({ volumeId }) => volumeId !== undefined);
    if (kept.length === 0) return;
    const { id, ownerDn, countsFor } = system;
    this.#beginning.set(id, Infinity);
    await this.#serial(ownerDn, async () => {
      try {
        for (const { name, sizeMiB, volumeId = '' } of kept)
          if (newVolumes.includes(volumeId)) {
            const wish = { ownerDn, name, sizeMiB, ...(countsFor && { countsFor }) };
            await this.#add(wish, volumeId, id);
          } else await this.#take(volumeId, id);
      } catch (error) {
        this.begun(id);
        await this.release(id, true);
        throw error;
      }
    });
  }

  /** That target system is stored, or is not, or nobody can tell yet. */
  begun(targetId: string): void {
    if (this.#beginning.has(targetId))
      this.#beginning.set(targetId, this.#options.clock.now() + lateMs);
  }

  /**
   * Its machine is proven gone.
   * @param neverWas the target system did not come to be: what was made with it goes too
   */
  async release(targetId: string, neverWas = false): Promise<void> {
    for (const volume of [...this.records.all()])
      if (volume.attachedTo === targetId) await this.#letGo(volume, targetId, neverWas);
  }

  /** @throws `CONFLICT` a machine has it; `NOT_FOUND` */
  async destroy(id: string): Promise<void> {
    const { ownerDn } = this.records.get(id);
    await this.#serial(ownerDn, async () => {
      await this.#requireFree(id);
      await this.records.update(id, (volume) => ({ ...volume, isRemoving: true }));
      await this.#finishRemoval(id);
    });
  }

  /** Those whose time is over, once no machine has them. */
  mortals(): Mortals {
    const { expired, ...mortals } = this.records.mortals((id) => this.destroy(id));
    const isFree = (id: string): boolean => this.records.find(id)?.attachedTo === undefined;
    return { ...mortals, expired: (nowMs) => [...expired(nowMs)].filter(isFree) };
  }

  /** Those whose removal has failed, and those of target systems that did not come to be, or were lost. */
  unsettled(): Mortals {
    return {
      what: 'unsettled volume',
      expired: (nowMs) => {
        for (const [id, untilMs] of this.#beginning)
          if (untilMs <= nowMs) this.#beginning.delete(id);
        const isUnsettled = (volume: Volume): boolean =>
          volume.isRemoving
            ? !this.#removing.has(volume.id)
            : this.#strayFrom(volume) !== undefined;
        return [...this.records.all()].filter(isUnsettled).map(({ id }) => id);
      },
      end: (id) => this.#settle(id),
    };
  }

  /** The target system that has it, and that this server does not know. */
  #strayFrom({ attachedTo }: Volume): string | undefined {
    if (attachedTo === undefined || this.#beginning.has(attachedTo)) return undefined;
    return this.#options.targets.isKnown(attachedTo) ? undefined : attachedTo;
  }

  async #settle(id: string): Promise<void> {
    const { ownerDn } = this.records.find(id) ?? {};
    if (ownerDn === undefined) return;
    await this.#serial(ownerDn, async () => {
      const volume = this.records.find(id);
      if (volume?.isRemoving) await this.#finishRemoval(id);
      else if (volume) await this.#settleStray(volume);
    });
  }

  /** Without a holder no machine was begun; else it is the lost machine's until no host has that. */
  async #settleStray(volume: Volume): Promise<void> {
    const { targets, files } = this.#options;
    const targetId = this.#strayFrom(volume);
    if (targetId === undefined || (await targets.isStored(targetId))) return;
    const wasHeld = (await files.holderOf(volume.id)) === targetId;
    if (wasHeld && !targets.isNowhere(targetId)) return;
    await this.#options.require();
    await this.#letGo(volume, targetId, !wasHeld);
    this.#log.warn({ volume: volume.id, vmId: targetId }, 'a volume of no target system is free');
  }

  async #add(wish: NewVolume, id: string, madeFor?: string): Promise<Volume> {
    const { ownerDn, name, tags = [], terminationMs, ...others } = wish;
    if (this.findOf(ownerDn, name))
      throw new GridError('CONFLICT', `name: you have a volume ${name}`);
    const volume: Volume = {
      ...{ id, ownerDn, name, tags, ...others, createdMs: this.#options.clock.now() },
      ...(terminationMs !== undefined && { terminationMs }),
      ...(madeFor !== undefined && { madeFor, attachedTo: madeFor }),
    };
    await this.records.add(volume);
    return volume;
  }

  async #take(id: string, targetId: string): Promise<void> {
    await this.#requireFree(id);
    await this.records.update(id, (volume) => ({ ...volume, attachedTo: targetId }));
  }

  async #requireFree(id: string): Promise<void> {
    const { attachedTo, name } = this.records.get(id);
    const holder = attachedTo ?? (await this.#options.files.holderOf(id));
    if (holder !== undefined) throw inUse(name, holder);
  }

  async #letGo({ id, madeFor }: Volume, targetId: string, neverWas: boolean): Promise<void> {
    const { files } = this.#options;
    const isMade = await files.has(id);
    if (neverWas && madeFor !== undefined && !isMade) {
      await this.records.remove(id);
      return;
    }
    const attachedTo = await files.letGo(id, targetId);
    await this.records.update(id, (volume) => ({
      ...without(volume, 'attachedTo', 'madeFor'),
      ...(attachedTo !== undefined && { attachedTo }),
      ...(isMade && { wasUsed: true as const }),
    }));
  }

  /** The record goes last: what is left is found by it. */
  async #finishRemoval(id: string): Promise<void> {
    const { require, files } = this.#options;
    this.#removing.add(id);
    try {
      await require();
      await files.remove(id);
      await this.records.remove(id);
    } finally {
      this.#removing.delete(id);
    }
    this.#log.info({ volume: id }, 'volume removed');
  }
}
