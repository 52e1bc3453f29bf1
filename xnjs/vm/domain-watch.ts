import type { Clock } from '#kernel/clock.js';
import { errorText } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import type { MachineObserver } from './machine-observer.js';
import { isSeatOf, seatKey, seatOf, type Seat } from './hosts/host.js';
import { whereText } from './hosts/hosts.js';
import { batchesOf } from './in-batches.js';
import type { DomainLook, DomainView, Hypervisor } from './hypervisor.js';
import type { VmEvent } from './state.js';
import type { Driver, Evidence, TargetSystem } from './target-system.js';
import { isAlive, type DomainWord } from './views.js';

export type DomainWatchOptions = {
  readonly hosts: {
    readonly areMany: boolean;
    driversOf(seat: Pick<Seat, 'host'>): readonly Driver[];
    of(seat: Pick<Seat, 'host'>): Pick<Hypervisor, 'look'>;
  };
  readonly records: {
    all(): Iterable<TargetSystem>;
    find(id: string): TargetSystem | undefined;
    apply(id: string, event: VmEvent): Promise<void>;
  };
  /** Those that have been started: of others it is no news that they do not run. */
  readonly started: () => Iterable<string>;
  readonly onStopped: (id: string, reason: string, seat: Seat) => void;
  readonly intervalMs: number;
  readonly observer?: Pick<MachineObserver, 'looked'> | undefined;
  readonly clock: Clock;
  readonly log: Log;
  readonly stopping: AbortSignal;
};

/** A machine's process that has not answered for so long hangs. A hypervisor that has not is silent. */
const hungMs = 4_000;
/** Machines that are looked at in a second, on average. */
const looksPerSecond = 1_000;
const silentMs = 8_000;
/** For so long it is watched whether processors make progress: even an idle guest has its clock. */
const progressMs = 5_000;

/** One that takes longer goes on beside the next ones, as many as these. */
const besideMs = 1_500;
const mostBeside = 8;

/** As a reason, so that none is made with a stack: thousands of machines are looked at in dozens of batches a second. */
const over = new Error('the wait is over');

/** Of the time between looks, what one that nobody waits for is spread over. */
const spread = 0.5;

/** What was seen of one machine so far; changed in place, since there are thousands every few seconds. */
type Seen = {
  /** Since when its process has not answered; `undefined`: it does. */
  muteSinceMs: number | undefined;
  /** Whether it is known to be able to answer. */
  hasAnswered: boolean;
  /** Since when its processors have been watched, and what they had used then. */
  baseMs: number | undefined;
  baseCpuMs: number;
  /** Whether they made progress the last time that they were watched for long enough. */
  progresses: boolean | undefined;
  /** It was not asked: what it had used is another figure then. */
  isUnasked: boolean;
};

/**
 * Asks the hypervisors again and again how their machines are: of some things that happen to these there is
 * no event, and events get lost.
 */
export class DomainWatch {
  readonly #options: DomainWatchOptions;
  readonly #seen = new Map<string, Seen>();
  /** By driver and host: when it was last heard. */
  readonly #heardMs = new Map<string, number>();
  /** Under way, and to come after that. */
  readonly #looking = new Map<string, Promise<void>>();
  readonly #next = new Map<string, Promise<void>>();
  /** Whose machines are known to answer such questions at all. */
  readonly #answering = new Set<string>();
  /** When a lifecycle event of a machine came last: a look that was begun before it knows less. */
  readonly #eventMs = new Map<string, number>();
  #count = 0;

  constructor(options: DomainWatchOptions) {
    this.#options = options;
  }

  async watch(): Promise<void> {
    const { clock, stopping, records } = this.#options;
    while (!stopping.aborted) {
      const seats = new Map<string, Seat>();
      this.#count = 0;
      for (const record of records.all()) {
        this.#count += 1;
        const key = seatKey(record);
        if (!seats.has(key)) seats.set(key, seatOf(record));
      }
      // one that hangs must not keep the others from being asked
      for (const [key, seat] of seats) if (!this.#looking.has(key)) void this.look(seat);
      await clock.sleep(this.#everyMs, stopping).catch(() => undefined);
    }
  }

  /** Between looks at the same machine. */
  get #everyMs(): number {
    return Math.max(this.#options.intervalMs, (1_000 * this.#count) / looksPerSecond);
  }

  /** When the hypervisor was last heard of this driver's machines on a host; ms since the epoch. */
  heardMs(seat: Seat): number | undefined {
    return this.#heardMs.get(seatKey(seat));
  }

  /** The hypervisor has told this by itself. */
  onEvent({ id, state, reason }: DomainView): void {
    this.#eventMs.set(id, this.#options.clock.now());
    if (state !== 'stopped') this.#tell(id, state, reason);
  }

  /** Now, or as soon as the look that is under way has ended: one for all who ask meanwhile. Never fails. */
  async look(seat: Seat): Promise<void> {
    const key = seatKey(seat);
    const waiting = this.#next.get(key);
    if (waiting) {
      await waiting;
      return;
    }
    const before = this.#looking.get(key);
    if (!before) {
      await this.#begin(seat, key);
      return;
    }
    const next = before.then(() => {
      this.#next.delete(key);
      return this.#begin(seat, key);
    });
    this.#next.set(key, next);
    await next;
  }

  async #begin(seat: Seat, key: string): Promise<void> {
    const look = this.#look(seat, key).finally(() => void this.#looking.delete(key));
    this.#looking.set(key, look);
    await look;
  }

  forget(id: string): void {
    this.#seen.delete(id);
    this.#eventMs.delete(id);
  }

  async #look(seat: Seat, key: string): Promise<void> {
    const { started, observer, clock, stopping } = this.#options;
    if (stopping.aborted) return;
    const ours = [...started()].filter((id) => this.#isThere(seat, id));
    if (ours.length === 0) {
      this.#heardMs.delete(key);
      return;
    }
    const batches = batchesOf(ours);
    const paceMs = (spread * this.#everyMs) / batches.length;
    let ms = 0;
    const beside = new Set<Promise<void>>();
    const silence = new AbortController();
    for (const [at, batch] of batches.entries()) {
      const begun = performance.now();
      const work = this.#lookAt(seat, key, batch).then((isHeard) => {
        if (!isHeard) silence.abort();
      });
      beside.add(work);
      void work.finally(() => beside.delete(work));
      const isLast = at + 1 === batches.length;
      if (isLast) await Promise.all(beside);
      else await this.#forAWhile(work);
      if (beside.size >= mostBeside) await Promise.race(beside);
      if (silence.signal.aborted) break;
      const tookMs = performance.now() - begun;
      ms += tookMs;
      // each batch in its time, so that others have theirs, unless somebody waits for this look to end
      if (at + 1 < batches.length && tookMs < paceMs && !this.#next.has(key))
        await clock.sleep(paceMs - tookMs, stopping).catch(() => undefined);
      if (this.#options.stopping.aborted) return;
    }
    await Promise.all(beside);
    if (!silence.signal.aborted) observer?.looked(seat.driver, ms);
  }

  /** Until that is done, or takes so long that others need not wait for it. */
  async #forAWhile(work: Promise<unknown>): Promise<void> {
    const done = new AbortController();
    const whatever = (): undefined => undefined;
    const until = this.#options.clock.sleep(besideMs, done.signal).catch(whatever);
    await Promise.race([work, until]).finally(() => done.abort(over));
  }

  /** @returns whether the hypervisor has answered */
  async #lookAt(seat: Seat, key: string, ids: readonly string[]): Promise<boolean> {
    const { hosts, onStopped, clock, log } = this.#options;
    const beganMs = clock.now();
    let looks: readonly DomainLook[];
    try {
      looks = await hosts.of(seat).look(seat.driver, ids, (id) => this.#isSilent(id));
    } catch (error) {
      log.debug({ ...seat, err: errorText(error) }, 'the hypervisor could not be asked');
      this.#onSilence(seat, beganMs);
      return false;
    }
    this.#heardMs.set(key, clock.now());
    const found = new Map(looks.map((look) => [look.id, look]));
    for (const id of ids) {
      if (beganMs <= (this.#eventMs.get(id) ?? 0)) continue;
      const look = found.get(id);
      // meanwhile it may have got another host
      if (!this.#isThere(seat, id)) continue;
      if (!look) onStopped(id, 'the domain no longer exists', seat);
      else if (look.state === 'stopped') onStopped(id, look.reason, seat);
      else this.#judge(look, beganMs);
    }
    return true;
  }

  #isThere(seat: Seat, id: string): boolean {
    const record = this.#options.records.find(id);
    return record !== undefined && isSeatOf(seat, record);
  }

  #judge(look: DomainLook, beganMs: number): void {
    const { id, state, reason, answers, isUnasked } = look;
    const seen = this.#seenOf(id);
    watchProgress(seen, look, beganMs);
    if (isUnasked) {
      this.#guess(look, seen);
      return;
    }
    seen.hasAnswered ||= this.#answered(id, answers);
    const isMute = answers === false || (answers === undefined && seen.hasAnswered);
    seen.muteSinceMs = isMute ? (seen.muteSinceMs ?? beganMs) : undefined;
    if (state === 'stopped') return;
    if (state === 'running' && seen.muteSinceMs !== undefined) {
      if (this.#options.clock.now() - seen.muteSinceMs < hungMs) return;
      this.#tell(id, 'hung', "the machine's process does not answer the hypervisor: it hangs");
    } else this.#tell(id, state, state === 'running' ? this.#howItRuns(look, seen) : reason);
  }

  #seenOf(id: string): Seen {
    const known = this.#seen.get(id);
    if (known) return known;
    const seen = unseen();
    this.#seen.set(id, seen);
    return seen;
  }

  /** Many hang at once: what stands still as well seems to, even if it was not asked. */
  #guess({ id, state, reason }: DomainLook, seen: Seen): void {
    if (state === 'stopped') return;
    const isGuessed = this.#isGuessed(id, seen);
    // one whose agent is heard again does not stand still
    if (state !== 'running' || (isGuessed && !this.#isSilent(id))) this.#tell(id, state, reason);
    else if (seen.progresses === false)
      this.#tell(
        id,
        'hung',
        'the machine and its agent stand still, while many of its host hang: it was not asked whether it does',
      );
  }

  /** It was told to hang, and not since it does not answer. */
  #isGuessed(id: string, { muteSinceMs }: Seen): boolean {
    const says = this.#options.records.find(id)?.views?.hypervisor?.says;
    return says === 'hung' && muteSinceMs === undefined;
  }

  /** One that has started is as able to answer as others there, even if it hung before it was ever asked. */
  #answered(id: string, answers: boolean | undefined): boolean {
    const record = this.#options.records.find(id);
    if (!record) return answers !== undefined;
    if (answers !== undefined) this.#answering.add(seatKey(record));
    return (
      answers !== undefined ||
      (record.state !== 'INITIALIZING' && this.#answering.has(seatKey(record)))
    );
  }

  /** Of a machine whose agent is silent: whether its guest does anything at all. */
  #howItRuns({ id, reason }: DomainLook, { progresses }: Seen): string {
    if (!this.#isSilent(id) || progresses === undefined) return reason;
    return progresses
      ? "the machine runs and its processors work: its guest's system or its agent hangs"
      : 'the machine runs and its processors make no progress: its guest hangs';
  }

  #isSilent(id: string): boolean {
    return this.#options.records.find(id)?.views?.agent?.says === 'down';
  }

  #onSilence(seat: Seat, nowMs: number): void {
    const { hosts, records } = this.#options;
    const sinceMs = this.#heardMs.get(seatKey(seat));
    const fact = `${whereText(hosts, seat)}the hypervisor does not answer`;
    if (sinceMs === undefined) this.#heardMs.set(seatKey(seat), nowMs);
    // the first call that fails proves nothing, however rarely it is asked
    else if (nowMs - sinceMs >= Math.max(silentMs, 1.5 * this.#everyMs))
      for (const record of records.all())
        if (isSeatOf(seat, record)) this.#tell(record.id, 'silent', fact);
  }

  #tell(id: string, says: DomainWord, fact: string): void {
    const { records, clock, log } = this.#options;
    const record = records.find(id);
    if (!record || !isAlive(record)) return;
    const { hypervisor } = record.views ?? {};
    if (hypervisor?.says === says && hypervisor.fact === fact) return;
    const evidence: Evidence = { source: 'hypervisor', fact, atMs: clock.now() };
    records.apply(id, { type: 'domain', says, evidence }).catch((error: unknown) => {
      log.error({ vmId: id, err: error }, 'news of a machine were lost');
    });
  }
}

function unseen(): Seen {
  return {
    muteSinceMs: undefined,
    hasAnswered: false,
    baseMs: undefined,
    baseCpuMs: 0,
    progresses: undefined,
    isUnasked: false,
  };
}

function watchProgress(seen: Seen, { cpuMs, isUnasked = false }: DomainLook, nowMs: number): void {
  if (cpuMs === undefined || seen.isUnasked !== isUnasked) {
    seen.baseMs = undefined;
    seen.progresses = undefined;
  }
  seen.isUnasked = isUnasked;
  if (cpuMs === undefined) return;
  if (seen.baseMs !== undefined) {
    if (nowMs - seen.baseMs < progressMs) return;
    seen.progresses = cpuMs > seen.baseCpuMs;
  }
  seen.baseMs = nowMs;
  seen.baseCpuMs = cpuMs;
}
