import { randomUUID } from 'node:crypto';
import type { Clock } from '#kernel/clock.js';
import { GridError } from '#kernel/errors.js';
import { driverAbilities } from '../hosts/driver-abilities.js';
import type { Held, HostPlacement } from '../hosts/host-placement.js';
import { lossText, type Hosts } from '../hosts/hosts.js';
import { refugeFrom } from '../hosts/rehosting.js';
import { fingerprint } from '../parking.js';
import type { Planner } from '../placement/planner.js';
import { VmError } from '../state.js';
import type { SystemRecords } from '../system-records.js';
import type { Evidence, TargetSystem } from '../target-system.js';
import { findSnapshot, withSnapshot, type Snapshot } from './snapshot.js';
import { hasDisk, memoryFileMiB, type SnapshotFiles } from './snapshot-files.js';

export type SnapshotsOptions = {
  readonly records: Pick<SystemRecords, 'get' | 'queue' | 'applyNow' | 'save' | 'schedule'>;
  readonly filesOf: (system: TargetSystem) => SnapshotFiles;
  readonly hosts: Hosts;
  readonly places: HostPlacement;
  readonly planner: Pick<Planner, 'quotasFor'>;
  /** The most of one target system. */
  readonly most: number;
  readonly clock: Clock;
};

/**
 * What users order of snapshots. The wish is stored, and counts on quotas, before this answers; what it takes
 * is done behind the caller's back (ADR 037).
 */
export class Snapshots {
  readonly #options: SnapshotsOptions;

  constructor(options: SnapshotsOptions) {
    this.#options = options;
  }

  /** The oldest first. @throws `NOT_FOUND` there is no such target system */
  list(systemId: string): readonly Snapshot[] {
    return this.#options.records.get(systemId).snapshots ?? [];
  }

  /** @throws `NOT_FOUND` */
  get(systemId: string, snapshotId: string): Snapshot {
    return getSnapshot(this.#options.records.get(systemId), snapshotId);
  }

  /**
   * @param name for people
   * @param id of it, where it is to be found again by that
   * @throws `CONFLICT` it cannot be taken of such a machine; `VM_ILLEGAL_EVENT` not now; `LIMIT_REACHED`,
   * `QUOTA_EXCEEDED`, `STORAGE_FULL` there is no room for it
   */
  async take(systemId: string, name: string, id: string = randomUUID()): Promise<Snapshot> {
    const { records, filesOf, hosts, planner, most, clock } = this.#options;
    const snapshot = await records.queue(systemId, async () => {
      const system = records.get(systemId);
      const isOff = system.state === 'FAILED';
      requireMachine(system);
      if (isOff) requireDisk(system);
      if (hosts.storageOf(system)) requireHost(system, hosts);
      requireSettled(system);
      const kept = (system.snapshots ?? []).filter(({ state }) => state !== 'FAILED');
      if (kept.length >= most)
        throw new GridError(
          'LIMIT_REACHED',
          `the limit of ${most} snapshots of a target system is reached`,
          { vmId: systemId },
        );
      const files = filesOf(system);
      const allMiB = await files.neededMiB(system);
      const sizeMiB = isOff ? allMiB - memoryFileMiB(system) : allMiB;
      await files.requireRoom(system, sizeMiB);
      const nowMs = clock.now();
      const { parameters, enrolment } = system;
      const taken = { id, name, state: 'TAKING', createdMs: nowMs } as const;
      const draft = {
        ...{ ...taken, parameters, sizeMiB },
        ...(isOff ? { isDiskOnly: true as const } : enrolment && { enrolment }),
      };
      const evidence = this.#evidence(`the snapshot "${name}" is being taken`);
      const event = { type: 'capture', snapshot: draft, evidence } as const;
      await records.applyNow(systemId, event, planner.quotasFor(system));
      return draft;
    });
    records.schedule(systemId);
    return snapshot;
  }

  /**
   * Puts the machine back to what it was; also one that has stopped, on another host if its own was declared lost.
   * @throws `CONFLICT` the snapshot is not ready, or not of this hypervisor; `VM_ILLEGAL_EVENT` not now
   */
  async revert(systemId: string, snapshotId: string): Promise<void> {
    const { records, hosts } = this.#options;
    await records.queue(systemId, async () => {
      const system = records.get(systemId);
      const snapshot = getSnapshot(system, snapshotId);
      const { name, state, message } = snapshot;
      if (state !== 'READY') {
        const why = message === undefined ? '' : `: ${message}`;
        throw conflict(systemId, `the snapshot is ${state}${why}`);
      }
      requireSettled(system);
      const about = `is being put back to the snapshot "${name}"`;
      const order = { type: 'revert', snapshotId } as const;
      if (system.state === 'FAILED' && hosts.lossOf(system)) {
        const { release, ...place } = await this.#refugeOf(system, snapshot);
        try {
          const evidence = this.#evidence(`${about}, on host ${place.host}`);
          await records.applyNow(systemId, { ...order, evidence, place });
        } finally {
          release();
        }
        return;
      }
      await this.#requireEqual(system, snapshot);
      await records.applyNow(systemId, { ...order, evidence: this.#evidence(about) });
    });
    records.schedule(systemId);
  }

  /** @throws `CONFLICT` its machine cannot go back to that where it is */
  async #requireEqual(system: TargetSystem, { host, isDiskOnly }: Snapshot): Promise<void> {
    const { hosts } = this.#options;
    requireHost(system, hosts);
    if (isDiskOnly && system.desired === 'suspended')
      throw conflict(system.id, 'the snapshot has no memory that could be parked: thaw it first');
    if (!isDiskOnly && host !== fingerprint(await hosts.of(system).describe(system.driver)))
      throw conflict(system.id, 'the snapshot is of another hypervisor or processor');
  }

  /** @throws `CONFLICT` there is none, or its files are lost */
  async #refugeOf(system: TargetSystem, snapshot: Snapshot): Promise<Held> {
    if ((await this.#options.filesOf(system).sizeMiB(system, snapshot.id)) === 0)
      throw conflict(system.id, `the snapshot was lost with host ${system.host}`);
    return await refugeFrom(system, snapshot, this.#options);
  }

  /** @throws `CONFLICT` it is in use */
  async remove(systemId: string, snapshotId: string): Promise<void> {
    const { records } = this.#options;
    await records.queue(systemId, async () => {
      const system = records.get(systemId);
      getSnapshot(system, snapshotId);
      if (system.undertaking?.snapshotId === snapshotId)
        throw conflict(systemId, 'the snapshot is in use: wait until that is over');
      await records.save(withSnapshot(system, snapshotId, { state: 'REMOVING' }));
    });
    records.schedule(systemId);
  }

  #evidence(fact: string): Evidence {
    return { source: 'user', fact, atMs: this.#options.clock.now() };
  }
}

function getSnapshot(system: TargetSystem, snapshotId: string): Snapshot {
  const snapshot = findSnapshot(system, snapshotId);
  if (snapshot && snapshot.state !== 'REMOVING') return snapshot;
  throw new VmError('NOT_FOUND', `there is no snapshot ${snapshotId}`, { vmId: system.id });
}

/** @throws `CONFLICT` */
function requireMachine({ id, state, driver, views, volumes }: TargetSystem): void {
  const { snapshots, description } = driverAbilities[driver];
  if (!snapshots) throw conflict(id, `${description}: no snapshots are taken of them`);
  if (volumes)
    throw conflict(id, 'it has volumes, which a snapshot would not have: no snapshots are taken');
  const hypervisor = state === 'FAILED' ? undefined : views?.hypervisor;
  if (hypervisor?.says === 'hung' || hypervisor?.says === 'silent')
    throw conflict(id, `no snapshot can be taken: ${hypervisor.fact}`);
}

/** @throws `CONFLICT` nothing is left of one that is off */
function requireDisk(system: TargetSystem): void {
  if (!hasDisk(system))
    throw conflict(system.id, 'the machine is off, and has no disk that could be kept');
}

/** @throws `CONFLICT` */
function requireHost(system: TargetSystem, hosts: Pick<Hosts, 'lossOf'>): void {
  const loss = hosts.lossOf(system);
  if (loss) throw conflict(system.id, `its host ${system.host} was ${lossText(loss)}`);
}

/** While its memory is on the way between a host and a file it is in neither for sure. @throws `CONFLICT` */
function requireSettled({ id, state, parkedOn }: TargetSystem): void {
  if (parkedOn !== undefined && state !== 'SUSPENDED' && state !== 'FAILED')
    throw conflict(id, 'its memory is on the way to or from disk: wait until that is over');
}

function conflict(vmId: string, text: string): GridError {
  return new GridError('CONFLICT', text, { vmId });
}
