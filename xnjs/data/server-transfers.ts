import { randomUUID } from 'node:crypto';
import pLimit, { type LimitFunction } from 'p-limit';
import type { Clock } from '#kernel/clock.js';
import { asGridError, errorText, GridError } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import { schemeOf } from '../staging/protocols.js';
import { siteOf, type SingleTransfer, type SingleTransfers } from '../staging/staging.js';
import { hasWildcard } from '../staging/wildcard.js';
import type { Storage } from '../storage/storage.js';
import type { Storages } from '../storage/storages.js';
import type { Targets } from '../target.js';
import type { DataConfig } from './config.js';
import { OwnedRecords, type RecordStore } from './owned-records.js';
import { storageFor } from './principal.js';
import {
  entryOf,
  ShownProgress,
  type ServerTransfer,
  type Shown,
  type TransferEntry,
  type TransferWish,
} from './server-transfer.js';
import { stepTransfer, type TransferEvent } from './transfer-state.js';

export type ServerTransfersOptions = {
  readonly store: RecordStore<ServerTransfer>;
  readonly storages: Pick<Storages, 'get'>;
  readonly targets: Pick<Targets, 'find'>;
  readonly staging: SingleTransfers;
  readonly config: Pick<DataConfig, 'recordSeconds' | 'perUser' | 'runningPerUser'>;
  readonly clock: Clock;
  readonly log: Log;
};

/** With them a user acts as the account of a target system, beyond the storage. */
const ofAccount = new Set(['file', 'link', 'git', 'git+http', 'git+https']);
/** For what is away a while: a storage being made, a database, a target system that starts. */
const retryMs = 2_000;
/** One `rm`, for which an abort or a deletion waits; then it is tried again. */
const clearMs = 60_000;
/** A timer takes no more than 2^31 ms. */
const longestSleepMs = 86_400_000;

type Running = {
  readonly stop: AbortController;
  readonly ended: Promise<void>;
  progress?: ShownProgress;
};

/**
 * Transfers between storages and other servers (unicore-rest 3.13). Each is stored before anything is
 * done about it, and gone on with after a restart.
 */
export class ServerTransfers implements AsyncDisposable {
  readonly records: OwnedRecords<ServerTransfer>;
  readonly #options: ServerTransfersOptions;
  readonly #log: Log;
  readonly #running = new Map<string, Running>();
  readonly #slots = new Map<string, LimitFunction>();
  readonly #closing = new AbortController();

  constructor(options: ServerTransfersOptions) {
    const { store, config } = options;
    this.#options = options;
    this.#log = options.log.child({ part: 'xnjs.transfer' });
    this.records = new OwnedRecords({
      store,
      what: 'transfer',
      perUser: config.perUser,
      isGone: ({ state }) => state === 'DESTROYING',
      mayGo: (record) => !isUnderWay(record),
    });
  }

  /** Goes on with what was begun. Storages must be known by now. */
  async start(): Promise<void> {
    for (const { id } of await this.records.load()) this.#schedule(id);
  }

  /**
   * Stores the wish and returns.
   * @throws `BAD_REQUEST` naming the member; `NOT_FOUND` what is to be sent is not there
   */
  async create(wish: TransferWish): Promise<ServerTransfer> {
    const { clock, storages } = this.#options;
    const { storageId, principal, direction, terminationMs, ...others } = wish;
    const { entry } = entryOf(wish);
    const level = direction === 'in' ? 'write' : 'read';
    const storage = await storageFor(storages, storageId, principal, level);
    if (ofAccount.has(schemeOf(wish.remote)?.toLowerCase() ?? ''))
      this.#refuseGuests(storage, wish);
    if (direction === 'out' && !hasWildcard(entry.from))
      await storage.files(principal.dn).stat(entry.from);
    const latestMs = this.latestTerminationMs();
    if ((terminationMs ?? latestMs) > latestMs)
      throw new GridError('BAD_REQUEST', 'terminationTime: is later than a transfer may live');
    const record: ServerTransfer = {
      ...others,
      ...{ id: randomUUID(), ownerDn: principal.dn, principal, storageId, direction },
      ...{ state: 'CREATED', message: '', transferredBytes: 0, sizeBytes: -1, files: {} },
      createdMs: clock.now(),
      terminationMs: terminationMs ?? latestMs,
    };
    await this.records.add(record);
    this.#schedule(record.id);
    return record;
  }

  /** As far as it has come. @throws `NOT_FOUND` */
  find(id: string): ServerTransfer {
    return { ...this.records.get(id), ...this.#running.get(id)?.progress?.shown };
  }

  /** One that is over is left as it is. */
  async abort(id: string): Promise<void> {
    const record = await this.#apply(id, 'abort', 'aborted');
    if (record?.state === 'ABORTING') this.#end(id);
  }

  /** Accepts the deletion; the record is gone when what was half done is. */
  async destroy(id: string): Promise<void> {
    if (await this.#apply(id, 'destroy', 'deleted')) this.#end(id);
  }

  latestTerminationMs(): number {
    const { clock, config } = this.#options;
    return clock.now() + config.recordSeconds * 1_000;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing.abort(new GridError('SITE_UNAVAILABLE', 'transfers are closing'));
    await Promise.allSettled([...this.#running.values()].map(({ ended }) => ended));
  }

  #refuseGuests({ targetId }: Storage, { principal, remote }: TransferWish): void {
    const target = targetId === undefined ? undefined : this.#options.targets.find(targetId);
    if (target && (target.ownerDn === principal.dn || principal.role === 'admin')) return;
    const scheme = schemeOf(remote) ?? '';
    throw new GridError(
      'BAD_REQUEST',
      target
        ? `transfers by "${scheme}" are for the owner of the target system only`
        : `transfers by "${scheme}" need a target system, and the storage lies on the server`,
    );
  }

  #end(id: string): void {
    const running = this.#running.get(id);
    if (running) running.stop.abort(new GridError('CONFLICT', 'the transfer was aborted'));
    else this.#schedule(id);
  }

  #schedule(id: string): void {
    if (this.#closing.signal.aborted || this.#running.has(id)) return;
    const stop = new AbortController();
    const signal = AbortSignal.any([stop.signal, this.#closing.signal]);
    const ended = this.#reconcile(id, signal)
      .catch(async (error: unknown) => {
        if (this.#closing.signal.aborted || stop.signal.aborted) return;
        this.#log.info({ transferId: id, err: error }, 'transfer has to wait, trying again');
        await this.#options.clock.sleep(retryMs, signal).catch(() => undefined);
      })
      .finally(() => {
        this.#running.delete(id);
        if (isUnderWay(this.records.find(id))) this.#schedule(id);
      });
    this.#running.set(id, { stop, ended });
  }

  /** Makes the world look like the record. One at a time for each; idempotent. */
  async #reconcile(id: string, signal: AbortSignal): Promise<void> {
    await Promise.resolve(); // it is noted as running by now
    const record = this.records.find(id);
    if (!isUnderWay(record)) return;
    if (record.state === 'ABORTING' || record.state === 'DESTROYING') {
      await this.#clear(record);
      if (record.state === 'DESTROYING') await this.records.remove(id);
      else await this.#apply(id, 'cleared', 'aborted', settled);
      return;
    }
    await this.#sleepUntil(record.startMs ?? 0, signal);
    const slots = this.#slots.get(record.ownerDn) ?? pLimit(this.#options.config.runningPerUser);
    this.#slots.set(record.ownerDn, slots);
    await slots(() => this.#run(id, signal));
  }

  async #run(id: string, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    const { clock, staging } = this.#options;
    const startedMs = clock.now();
    const record = await this.#apply(id, 'start', '', (each) => ({ ...each, startedMs }));
    if (record?.state !== 'RUNNING') return;
    const progress = this.#progressOf(record);
    const running = this.#running.get(id);
    if (running) running.progress = progress;
    try {
      const transfer = await this.#transferOf(record, progress);
      await staging.perform(transfer, signal);
      const shown = progress.shown;
      const seconds = Math.max(0, (clock.now() - startedMs) / 1_000).toFixed(1);
      const message = `SUCCESSFUL (${shown.transferredBytes} bytes in ${seconds} s)`;
      await this.#apply(id, 'done', message, (each) => settled({ ...each, ...shown }));
    } catch (error) {
      signal.throwIfAborted();
      if (asGridError(error)?.row.retry === true) throw error;
      const { shown } = progress;
      await this.#apply(id, 'failed', errorText(error), (each) => settled({ ...each, ...shown }));
    }
  }

  #progressOf(record: ServerTransfer): ShownProgress {
    const shown = (): Shown => progress.shown;
    const progress: ShownProgress = new ShownProgress(
      {
        find: () => Promise.resolve(new Map()),
        save: async (_key, state) => {
          await this.records.update(record.id, (each) => ({
            ...each,
            ...shown(),
            progress: state,
          }));
        },
      },
      record,
    );
    return progress;
  }

  async #transferOf(record: ServerTransfer, progress: ShownProgress): Promise<SingleTransfer> {
    const { id, ownerDn, principal } = record;
    const wanted: TransferEntry = entryOf(record);
    const level = wanted.direction === 'in' ? 'write' : 'read';
    const storage = await storageFor(this.#options.storages, record.storageId, principal, level);
    if (storage.status === 'INITIALIZING')
      throw new GridError('SITE_UNAVAILABLE', `storage ${storage.id} is being made`);
    return { ...wanted, ...{ id, ownerDn, progress }, site: this.#siteOf(storage, record) };
  }

  #siteOf(storage: Storage, { principal }: ServerTransfer): SingleTransfer['site'] {
    const { targetId } = storage;
    const target = targetId === undefined ? undefined : this.#options.targets.find(targetId);
    return siteOf(storage.files(principal.dn), target);
  }

  /** Once what was under way has let go. What went with its storage is no more. */
  async #clear(record: ServerTransfer): Promise<void> {
    if (record.startedMs === undefined || record.isSettled) return;
    const { storages, staging } = this.#options;
    const signal = AbortSignal.any([AbortSignal.timeout(clearMs), this.#closing.signal]);
    try {
      const storage = await storages.get(record.storageId);
      await staging.discard({ id: record.id, site: this.#siteOf(storage, record) }, signal);
    } catch (error) {
      if (asGridError(error)?.row.retry === true || asGridError(error) === undefined) throw error;
      this.#log.info({ transferId: record.id, err: error }, 'half a file may be left behind');
    }
  }

  async #sleepUntil(ms: number, signal: AbortSignal): Promise<void> {
    const { clock } = this.#options;
    for (let left = ms - clock.now(); left > 0; left = ms - clock.now())
      await clock.sleep(Math.min(left, longestSleepMs), signal);
  }

  async #apply(
    id: string,
    event: TransferEvent,
    message: string,
    also: (record: ServerTransfer) => ServerTransfer = (record) => record,
  ): Promise<ServerTransfer | undefined> {
    return await this.records.update(id, (before) => {
      const state = stepTransfer(before.state, event);
      if (state === before.state && event !== 'start') return before;
      this.#log.info({ transferId: id, from: before.state, to: state }, 'transfer changed');
      return { ...also(before), state, message };
    });
  }
}

/** Nothing is half done, and nobody has to prove who asks again. */
function settled(record: ServerTransfer): ServerTransfer {
  return { ...record, isSettled: true, credentials: undefined };
}

type UnderWay = ServerTransfer & { state: 'CREATED' | 'RUNNING' | 'ABORTING' | 'DESTROYING' };

function isUnderWay(record: ServerTransfer | undefined): record is UnderWay {
  return record !== undefined && !['DONE', 'FAILED', 'ABORTED'].includes(record.state);
}
