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
import type { VolumeFiles } from './volume-files.js';
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
  /** @throws when this server may not act any more */
  readonly require: () => Promise<void>;
  readonly clock: Clock;
  readonly log: Log;
};

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
    await this.#restore(systems);
    const there = new Set(systems.map(({ id }) => id));
    for (const volume of await this.records.load())
      try {
        if (volume.isRemoving) await this.#finishRemoval(volume.id);
        else if (volume.attachedTo !== undefined && !there.has(volume.attachedTo))
          await this.#letGo(volume, true);
      } catch (error) {
        this.#log.warn({ volume: volume.id, err: errorText(error) }, 'a volume was left as it is');
      }
  }

  /** What machines have is theirs, whatever became of the database: a target system that was found again has it. */
  async #restore(systems: readonly TargetSystem[]): Promise<void> {
    const { store } = this.#options;
    const known = new Map((await store.all()).map((volume) => [volume.id, volume]));
    for (const { id, ownerDn, volumes = [], createdMs, state } of systems)
      for (const { volumeId, name, sizeMiB } of volumes) {
        // one that goes may have given them back already
        if (volumeId === undefined || state === 'DESTROYING') continue;
        const volume = known.get(volumeId);
        const lost = { id: volumeId, ownerDn, name, sizeMiB, tags: [], createdMs };
        if (!volume) await store.create({ ...lost, attachedTo: id, wasUsed: true }, []);
        else if (volume.attachedTo === undefined) await store.save({ ...volume, attachedTo: id });
        else if (volume.attachedTo !== id)
          this.#log.error({ volume: volumeId, vmId: id }, 'another target system has its volume');
      }
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
    await this.#serial(ownerDn, async () => {
      try {
        for (const { name, sizeMiB, volumeId = '' } of kept)
          if (newVolumes.includes(volumeId)) {
            const wish = { ownerDn, name, sizeMiB, ...(countsFor && { countsFor }) };
            await this.#add(wish, volumeId, id);
          } else await this.#take(volumeId, id);
      } catch (error) {
        await this.release(id, true);
        throw error;
      }
    });
  }

  /**
   * Its machine is proven gone.
   * @param neverWas the target system did not come to be: what was made with it goes too
   */
  async release(targetId: string, neverWas = false): Promise<void> {
    for (const volume of [...this.records.all()])
      if (volume.attachedTo === targetId) await this.#letGo(volume, neverWas);
  }

  /** @throws `CONFLICT` a machine has it; `NOT_FOUND` */
  async destroy(id: string): Promise<void> {
    const { ownerDn } = this.records.get(id);
    await this.#serial(ownerDn, async () => {
      const { attachedTo } = this.records.get(id);
      if (attachedTo !== undefined)
        throw new GridError('CONFLICT', `the volume is in use by target system ${attachedTo}`);
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
    const { attachedTo, name } = this.records.get(id);
    if (attachedTo !== undefined)
      throw new GridError(
        'CONFLICT',
        `the volume ${name} is in use by target system ${attachedTo}`,
        { vmId: attachedTo },
      );
    await this.records.update(id, (volume) => ({ ...volume, attachedTo: targetId }));
  }

  async #letGo({ id, madeFor }: Volume, neverWas: boolean): Promise<void> {
    const isMade = await this.#options.files.has(id);
    if (neverWas && madeFor !== undefined && !isMade) {
      await this.records.remove(id);
      return;
    }
    await this.records.update(id, (volume) => ({
      ...without(volume, 'attachedTo', 'madeFor'),
      ...(isMade && { wasUsed: true as const }),
    }));
  }

  /** The record goes last: what is left is found by it. */
  async #finishRemoval(id: string): Promise<void> {
    await this.#options.require();
    await this.#options.files.remove(id);
    await this.records.remove(id);
    this.#log.info({ volume: id }, 'volume removed');
  }
}
