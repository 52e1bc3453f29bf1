import type { Clock } from '#kernel/clock.js';
import { errorText } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import type { MachineObserver } from './machine-observer.js';
import { isSeatOf, seatKey, seatOf, type Seat } from './hosts/host.js';
import { whereText } from './hosts/hosts.js';
import type { DomainLook, DomainView, Hypervisor } from './hypervisor.js';
import { isAlive, type VmEvent } from './state.js';
import type { Driver, Evidence, TargetSystem } from './target-system.js';
import type { DomainWord } from './views.js';

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
const looksPerSecond = 2_500;
const silentMs = 8_000;
/** For so long it is watched whether processors make progress: even an idle guest has its clock. */
const progressMs = 5_000;

/** What was seen of one machine so far. */
type Seen = {
  /** Since when its process has not answered; absent: it does. */
  readonly muteSinceMs?: number;
  /** Whether it is known to be able to answer. */
  readonly hasAnswered: boolean;
  /** Since when its processors have been watched, and what they had used then. */
  readonly base?: { readonly cpuMs: number; readonly atMs: number };
  /** Whether they made progress the last time that they were watched for long enough. */
  readonly progresses?: boolean;
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

  constructor(options: DomainWatchOptions) {
    this.#options = options;
  }

  async watch(): Promise<void> {
    const { clock, intervalMs, stopping } = this.#options;
    while (!stopping.aborted) {
      const machines = [...this.#options.records.all()];
      const seats = new Map(machines.map((record) => [seatKey(record), seatOf(record)]));
      // one that hangs must not keep the others from being asked
      for (const [key, seat] of seats) if (!this.#looking.has(key)) void this.look(seat);
      const waitMs = Math.max(intervalMs, (1_000 * machines.length) / looksPerSecond);
      await clock.sleep(waitMs, stopping).catch(() => undefined);
    }
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
    const { hosts, started, onStopped, clock, log, stopping } = this.#options;
    if (stopping.aborted) return;
    const beganMs = clock.now();
    const ours = [...started()].filter((id) => this.#isThere(seat, id));
    if (ours.length === 0) {
      this.#heardMs.delete(key);
      return;
    }
    let looks: readonly DomainLook[];
    const begun = performance.now();
    try {
      looks = await hosts.of(seat).look(seat.driver, ours);
      this.#options.observer?.looked(seat.driver, performance.now() - begun);
    } catch (error) {
      log.debug({ ...seat, err: errorText(error) }, 'the hypervisor could not be asked');
      this.#onSilence(seat, beganMs);
      return;
    }
    this.#heardMs.set(key, clock.now());
    const found = new Map(looks.map((look) => [look.id, look]));
    for (const id of ours) {
      if (beganMs <= (this.#eventMs.get(id) ?? 0)) continue;
      const look = found.get(id);
      // meanwhile it may have got another host
      if (!this.#isThere(seat, id)) continue;
      if (!look) onStopped(id, 'the domain no longer exists', seat);
      else if (look.state === 'stopped') onStopped(id, look.reason, seat);
      else this.#judge(look, beganMs);
    }
  }

  #isThere(seat: Seat, id: string): boolean {
    const record = this.#options.records.find(id);
    return record !== undefined && isSeatOf(seat, record);
  }

  #judge(look: DomainLook, beganMs: number): void {
    const { id, state, reason, answers } = look;
    const before = this.#seen.get(id);
    const hasAnswered = before?.hasAnswered === true || this.#answered(id, answers);
    const isMute = answers === false || (answers === undefined && hasAnswered);
    const muteSinceMs = isMute ? (before?.muteSinceMs ?? beganMs) : undefined;
    const seen: Seen = {
      hasAnswered,
      ...(muteSinceMs !== undefined && { muteSinceMs }),
      ...progress(look, before, beganMs),
    };
    this.#seen.set(id, seen);
    if (state === 'stopped') return;
    if (state === 'running' && muteSinceMs !== undefined) {
      if (this.#options.clock.now() - muteSinceMs < hungMs) return;
      this.#tell(id, 'hung', "the machine's process does not answer the hypervisor: it hangs");
    } else this.#tell(id, state, state === 'running' ? this.#howItRuns(look, seen) : reason);
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
    const isSilent = this.#options.records.find(id)?.views?.agent?.says === 'down';
    if (!isSilent || progresses === undefined) return reason;
    return progresses
      ? "the machine runs and its processors work: its guest's system or its agent hangs"
      : 'the machine runs and its processors make no progress: its guest hangs';
  }

  #onSilence(seat: Seat, nowMs: number): void {
    const { hosts, records } = this.#options;
    const sinceMs = this.#heardMs.get(seatKey(seat));
    const fact = `${whereText(hosts, seat)}the hypervisor does not answer`;
    if (sinceMs === undefined) this.#heardMs.set(seatKey(seat), nowMs);
    else if (nowMs - sinceMs >= silentMs)
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

function progress(
  { cpuMs }: DomainLook,
  before: Seen | undefined,
  nowMs: number,
): Pick<Seen, 'base' | 'progresses'> {
  if (cpuMs === undefined) return {};
  const now = { cpuMs, atMs: nowMs };
  const { base = now, progresses } = before ?? {};
  if (nowMs - base.atMs < progressMs)
    return { base, ...(progresses !== undefined && { progresses }) };
  return { base: now, progresses: cpuMs > base.cpuMs };
}
