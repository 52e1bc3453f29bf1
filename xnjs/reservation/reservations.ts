import { randomUUID } from 'node:crypto';
import { formatDate, type Clock } from '#kernel/clock.js';
import { asGridError, errorText, GridError } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import { createSerial } from '#kernel/persistence/serial.js';
import { idbOf } from '../idb/idb.js';
import { checkResources } from '../incarnation/resources.js';
import { parseDescription } from '../job/description.js';
import type { Target, Targets } from '../target.js';
import type { Reservation as Told } from '../tsi/tsi.js';
import type { Reservation, ReservationStore } from './reservation.js';

export class ReservationError extends GridError<
  'NOT_FOUND' | 'BAD_REQUEST' | 'CONFLICT' | 'JOB_LIMIT'
> {}

export type NewReservation = {
  readonly ownerDn: string;
  readonly targetId: string;
  readonly resources: Readonly<Record<string, unknown>>;
  /** ms since the epoch */
  readonly startMs: number;
  readonly tags: readonly string[];
};

export type ReservationsOptions = {
  readonly store: ReservationStore;
  readonly targets: Pick<Targets, 'find'>;
  readonly clock: Clock;
  readonly log: Log;
  readonly perUser?: number;
};

/** What was not done is tried again so often, and what is over looked for. */
const roundMs = 5_000;
const defaultSeconds = 3_600;
/** A batch system that has not answered by then is said to be unknown. */
const queryMs = 10_000;

/**
 * Reservations of batch systems behind TSIs. Each is stored before the batch system is asked, by an id
 * that our agent knows again; what a crash or a silence left in doubt is asked for once more.
 */
export class Reservations implements AsyncDisposable {
  readonly #options: ReservationsOptions;
  readonly #log: Log;
  readonly #records = new Map<string, Reservation>();
  readonly #queue = createSerial();
  readonly #closing = new AbortController();
  #rounds: Promise<void> = Promise.resolve();

  constructor(options: ReservationsOptions) {
    this.#options = options;
    this.#log = options.log.child({ part: 'xnjs.reservation' });
  }

  /** Goes on with what was begun. */
  async start(): Promise<void> {
    for (const record of await this.#options.store.all()) this.#records.set(record.id, record);
    this.#rounds = this.#goRound();
  }

  /** The newest first. */
  list(filter: { ownerDn?: string } = {}): Reservation[] {
    return [...this.#records.values()]
      .filter(({ ownerDn, state }) => {
        return state !== 'CANCELLING' && [undefined, ownerDn].includes(filter.ownerDn);
      })
      .sort((a, b) => b.createdMs - a.createdMs);
  }

  /** @throws {@link ReservationError} `NOT_FOUND` */
  get(id: string): Reservation {
    const record = this.#records.get(id);
    if (record && record.state !== 'CANCELLING') return record;
    throw new ReservationError('NOT_FOUND', `there is no reservation ${id}`);
  }

  /**
   * @throws `NOT_FOUND` no such target system; what `checkResources` does; `CONFLICT` in the words of the
   * batch system that refuses; `JOB_LIMIT` the user has too many
   */
  async create({ startMs, ...wish }: NewReservation): Promise<Reservation> {
    const { store, clock, perUser = 100 } = this.#options;
    if (this.list({ ownerDn: wish.ownerDn }).length >= perUser)
      throw new ReservationError('JOB_LIMIT', `you have ${perUser} reservations already`);
    const target = this.#target(wish.targetId);
    const description = parseDescription({ Resources: wish.resources });
    const { wallTime = defaultSeconds, ...asked } = checkResources(description, idbOf(target));
    const { memoryMiB, nodes, processorsPerNode, totalProcessors, gpusPerNode, queue } = asked;
    const size = { memoryMiB, nodes, processorsPerNode, totalProcessors, gpusPerNode };
    const given = Object.entries(size).filter(([, value]) => value !== undefined);
    const record: Reservation = {
      ...wish,
      id: randomUUID(),
      state: 'MAKING',
      resources: description.Resources,
      request: { ...Object.fromEntries(given), wallTime, queue, start: formatDate(startMs) },
      createdMs: clock.now(),
      terminationMs: startMs + wallTime * 1_000,
    };
    if (record.terminationMs <= clock.now())
      throw new ReservationError('BAD_REQUEST', 'Start time: the reservation would be over by now');
    return await this.#queue(record.id, async () => {
      await store.save(record);
      this.#records.set(record.id, record);
      return await this.#make(record);
    });
  }

  /** What the batch system says of it. */
  async status(id: string): Promise<Told> {
    const { reference, ownerDn, targetId } = this.get(id);
    if (reference === undefined) return { state: 'UNKNOWN', text: 'being made' };
    const target = this.#options.targets.find(targetId);
    if (!target) return { state: 'INVALID', text: `target system ${targetId} is gone` };
    try {
      const signal = AbortSignal.timeout(queryMs);
      return await target.tsi().queryReservation(target.identity, reference, { signal });
    } catch (error) {
      this.#log.debug({ dn: ownerDn, err: error }, 'a reservation could not be asked for');
      return { state: 'UNKNOWN', text: errorText(error) };
    }
  }

  async update(
    id: string,
    change: {
      tags?: readonly string[];
      acl?: readonly string[];
      terminationMs?: number;
    },
  ): Promise<Reservation> {
    return await this.#queue(id, () => this.#save({ ...this.get(id), ...change }));
  }

  /** Accepts the cancellation: it is gone when the batch system has let it go. */
  async cancel(id: string): Promise<void> {
    await this.#queue(id, async () => {
      await this.#save({ ...this.get(id), state: 'CANCELLING' });
    });
    await this.#goOn(id);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing.abort();
    await this.#rounds;
  }

  #target(id: string): Target {
    const target = this.#options.targets.find(id);
    if (target) return target;
    throw new ReservationError('NOT_FOUND', `there is no target system ${id}`, { vmId: id });
  }

  async #save(record: Reservation): Promise<Reservation> {
    await this.#options.store.save(record);
    this.#records.set(record.id, record);
    return record;
  }

  /** Only from inside the record's queue. @throws `CONFLICT` it was refused; then there is none */
  async #make(record: Reservation): Promise<Reservation> {
    const target = this.#options.targets.find(record.targetId);
    if (!target) return await this.#save({ ...record, state: 'CANCELLING' });
    try {
      const reference = await this.#order(target, record);
      return await this.#save({ ...record, state: 'MADE', reference });
    } catch (error) {
      if (asGridError(error)?.code !== 'TSI_FAILED') {
        this.#log.warn({ vmId: target.id, err: errorText(error) }, 'a reservation has to wait');
        return record;
      }
      await this.#remove(record.id);
      const text = `the batch system of target system ${target.id} refuses: ${errorText(error)}`;
      throw new ReservationError('CONFLICT', text, {}, { cause: error });
    }
  }

  async #remove(id: string): Promise<void> {
    await this.#options.store.remove(id);
    this.#records.delete(id);
  }

  async #goRound(): Promise<void> {
    const { clock } = this.#options;
    const { signal } = this.#closing;
    while (!signal.aborted) {
      await Promise.all([...this.#records.keys()].map((id) => this.#goOn(id)));
      await clock.sleep(roundMs, signal).catch(() => undefined);
    }
  }

  /** Does what a record asks for; what fails is left for the next round. */
  async #goOn(id: string): Promise<void> {
    try {
      await this.#queue(id, async () => {
        const record = this.#records.get(id);
        if (!record) return;
        const isOver = record.terminationMs <= this.#options.clock.now();
        if (record.state === 'CANCELLING' || isOver) await this.#letGo(record);
        else if (record.state === 'MAKING') await this.#make(record);
      });
    } catch (error) {
      this.#log.warn({ err: errorText(error) }, 'a reservation could not be taken care of');
    }
  }

  /** One that may have been made without our knowing is made, which tells its name, and then cancelled. */
  async #letGo(record: Reservation): Promise<void> {
    const { targets, store, clock } = this.#options;
    const target = targets.find(record.targetId);
    if (record.state !== 'CANCELLING') await store.save({ ...record, state: 'CANCELLING' });
    this.#records.set(record.id, { ...record, state: 'CANCELLING' });
    const isOver = record.terminationMs <= clock.now();
    let { reference } = record;
    if (target && reference === undefined && !isOver)
      reference = await this.#order(target, record).catch(unlessRefused);
    if (target && reference !== undefined) {
      const { signal } = this.#closing;
      const cancelled = target.tsi().cancelReservation(target.identity, reference, { signal });
      // batch systems forget what is over, and refuse to cancel it
      await (isOver ? cancelled.catch(unlessRefused) : cancelled);
    }
    await this.#remove(record.id);
  }

  /** @returns the batch system's name for it */
  async #order(
    target: Target,
    { id: reservationId, ownerDn: reservationOwner, request }: Reservation,
  ): Promise<string> {
    const order = { ...request, reservationId, reservationOwner };
    const { signal } = this.#closing;
    return await target.tsi().makeReservation(target.identity, order, { signal });
  }
}

function unlessRefused(error: unknown): undefined {
  if (asGridError(error)?.code !== 'TSI_FAILED') throw error;
}
