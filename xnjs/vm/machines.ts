import { EventEmitter } from 'node:events';
import { errorText } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import type { AgentFacts } from '#tsi/protocol/facts.js';
import { completeTimeline } from './boot.js';
import { createBinding } from './create-binding.js';
import { DomainWatch } from './domain-watch.js';
import type { MarkedRecord } from './domain-mark.js';
import type { DomainView } from './hypervisor.js';
import { Orphans } from './orphans.js';
import { isPassing } from './passing.js';
import { Parking } from './parking.js';
import { GuestWatch, judge } from './guest-watch.js';
import { Queues } from './queues.js';
import { isUsable, type VmEvent } from './state.js';
import type { TargetBinding } from './target-binding.js';
import { bootBaseMs, type Driver, type Evidence, type TargetSystem } from './target-system.js';
import type { TargetSystemsOptions } from './target-systems-options.js';
import { isBooted, needsIdentity, newIdentity } from './tiers/identity.js';
import type { SparePool } from './tiers/spare-pool.js';
import type { Templates } from './tiers/templates.js';
import { Starting } from './tiers/starting.js';
import type { UsageMeter } from './usage-meter.js';
import type { Views } from './views.js';

/** The durable records, as the machines behind them need them. */
export type MachineRecords = {
  all(): Iterable<TargetSystem>;
  find(id: string): TargetSystem | undefined;
  /** @throws `NOT_FOUND` */
  get(id: string): TargetSystem;
  /** What the database has lost is a target system again. */
  adopt(record: MarkedRecord): Promise<void>;
  /** Makes the machine look like the record, by way of the record's queue. Never fails. */
  reconcile(id: string): Promise<void>;
  /** The machine is made to look like the record soon, and again until that works. */
  schedule(id: string): void;
  /** Work on one record, one piece after the other. */
  queue(id: string, work: () => Promise<void>): Promise<void>;
  /** By way of the record's queue, after which the machine is made to look like the record. */
  apply(id: string, event: VmEvent): Promise<void>;
  /** Only from inside the record's queue. */
  applyNow(id: string, event: VmEvent): Promise<void>;
  /** What changes no state. Only from inside the record's queue. */
  save(record: TargetSystem): Promise<void>;
  /** Seen at once, stored with the next event. */
  show(record: TargetSystem): void;
};

/**
 * The virtual machines of the target systems and what is bound to them: makes the world look like the
 * records, and tells these what happens in it.
 */
export class Machines implements AsyncDisposable {
  readonly #options: TargetSystemsOptions;
  readonly #log: Log;
  readonly #records: MachineRecords;
  readonly #stopping: AbortSignal;
  readonly #bindings = new Map<string, TargetBinding>();
  /** Which of the machines that a target system has had is bound. */
  readonly #generations = new Map<string, number | undefined>();
  /** By target system: ids of jobs whose end its agent has told. */
  readonly #exits = new EventEmitter();
  readonly #queues: Queues;
  readonly #watch: DomainWatch;
  readonly #guests: GuestWatch;
  readonly #orphans: Orphans;
  readonly #parking: Parking;
  /** Whose agents answer at present. */
  readonly #answering = new Set<string>();
  readonly #meter: UsageMeter | undefined;
  readonly #starting: Starting;
  readonly #unsubscribe: (() => void)[] = [];

  constructor(
    options: TargetSystemsOptions,
    records: MachineRecords,
    {
      stopping,
      meter,
      spares,
      templates,
    }: {
      readonly stopping: AbortSignal;
      readonly meter: UsageMeter | undefined;
      readonly spares: SparePool | undefined;
      readonly templates: Templates | undefined;
    },
  ) {
    this.#options = options;
    this.#meter = meter;
    this.#log = options.log.child({ part: 'xnjs.vm' });
    this.#records = records;
    this.#stopping = stopping;
    this.#queues = new Queues({
      records,
      bound: () => [...this.#bindings.keys()],
      binding: (id) => this.#bindings.get(id),
      intervalMs: options.queuesIntervalMs ?? 300_000,
      clock: options.clock,
      log: this.#log,
      stopping,
    });
    const common = { records, clock: options.clock, log: this.#log, stopping };
    this.#watch = new DomainWatch({
      hypervisor: options.hypervisor,
      started: () => this.#bindings.keys(),
      onStopped: (id, reason) => this.#onDomain({ id, state: 'stopped', reason }),
      intervalMs: options.watchMs ?? 2_000,
      ...common,
    });
    this.#guests = new GuestWatch({
      bindings: () => [...this.#bindings].filter(([id]) => this.#answering.has(id)),
      intervalMs: options.guestMs ?? 30_000,
      learn: (id, facts) => this.#records.queue(id, () => this.#learn(id, facts)),
      ...common,
    });
    const require = (): Promise<void> => this.#require();
    this.#starting = new Starting({
      ...{ ...options, records, require, log: this.#log },
      tiers: { spares, templates },
    });
    this.#parking = new Parking({
      ...{ records, hypervisor: options.hypervisor, clock: options.clock },
      unbind: (id) => this.#unbind(id),
      reconcile: (id) => this.reconcile(id),
      require,
    });
    this.#orphans = new Orphans({
      ...options,
      isKnown: (id) =>
        records.find(id) !== undefined || spares?.has(id) === true || templates?.has(id) === true,
      adopt: (record) => records.adopt(record),
      graceMs: options.orphanGraceMs ?? 60_000,
      require,
    });
  }

  /** Domains of ours that belong to nobody, and that nothing is known of. */
  get orphans(): readonly string[] {
    return this.#orphans.left;
  }

  /** Writes on its domain what has changed of whose it is, should the database be lost. Never fails. */
  async mark(record: TargetSystem): Promise<void> {
    if (!this.#bindings.has(record.id)) return;
    await this.#options.hypervisor.mark(record, this.#epoch).catch((error: unknown) => {
      this.#log.info({ vmId: record.id, err: errorText(error) }, 'a domain could not be marked');
    });
  }

  get #epoch(): number {
    return this.#options.lease?.epoch ?? 0;
  }

  /** @throws `SITE_UNAVAILABLE` another server acts in our place */
  async #require(): Promise<void> {
    await this.#options.lease?.require();
  }

  /** When each source was last heard of a machine; ms since the epoch. */
  heard({ id, driver }: TargetSystem): Partial<Record<keyof Views, number>> {
    const hypervisor = this.#watch.heardMs(driver);
    const agent = this.#bindings.get(id)?.heardMs;
    const guest = this.#guests.heardMs(id);
    return {
      ...(hypervisor !== undefined && { hypervisor }),
      ...(agent !== undefined && { agent }),
      ...(guest !== undefined && { guest }),
    };
  }

  /** Listens to the hypervisors, and compares what they have with the records. */
  start(): void {
    const { hypervisor } = this.#options;
    this.#unsubscribe.push(
      hypervisor.onDomain((domain) => this.#onDomain(domain)),
      hypervisor.onAvailable((driver) => this.#spawn(this.#compare(driver))),
    );
    for (const driver of hypervisor.available()) this.#spawn(this.#compare(driver));
    this.#spawn(this.#queues.watch());
    this.#spawn(this.#watch.watch());
    this.#spawn(this.#compareAgainAndAgain());
    this.#spawn(this.#guests.watch());
  }

  /** Hears of nothing any more; what is bound stays so. */
  stopListening(): void {
    for (const end of this.#unsubscribe.splice(0)) end();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.stopListening();
    await Promise.allSettled([...this.#bindings.keys()].map((id) => this.#unbind(id)));
  }

  /** A machine that ran before became a target system's, with the link to its agent. */
  adopt(record: TargetSystem, binding: TargetBinding): void {
    this.#follow(record, binding);
    this.#answering.add(record.id);
    this.#spawn(this.mark(record));
    this.#spawn(this.#onAgentUp(record.id, binding));
    if (this.#meter) this.#spawn(this.#meter.measure(record.driver));
  }

  /** What is bound to a machine that has been started. */
  binding(id: string): TargetBinding | undefined {
    return this.#bindings.get(id);
  }

  /** Learns what the batch system of a machine tells of its queues. @throws `TSI_UNAVAILABLE` */
  async askQueues(id: string): Promise<void> {
    await this.#queues.ask(id);
  }

  /** @returns ends it */
  onExit(id: string, listener: (bssId: string) => void): () => void {
    this.#exits.on(id, listener);
    return () => this.#exits.off(id, listener);
  }

  /**
   * Gives the machine what its record says and the hypervisor has not confirmed. Only from inside the record's
   * queue; idempotent.
   */
  async applyParameters(id: string): Promise<void> {
    const record = this.#records.get(id);
    const { unapplied = [], ...applied } = record;
    if (unapplied.length === 0) return;
    const found = await this.#options.hypervisor.setControls(record, unapplied);
    // before there is a domain its definition is still to come, from the record
    if (found || record.state === 'INITIALIZING') await this.#records.save(applied);
  }

  /** The same where nobody waits for it: what is refused stays marked as not confirmed. */
  async reapplyParameters(id: string): Promise<void> {
    try {
      await this.applyParameters(id);
    } catch (error) {
      if (isPassing(error)) throw error;
      this.#log.warn({ vmId: id, err: error }, 'parameters of a machine could not be changed');
    }
  }

  /** Makes the world look like the record. Only from inside the record's queue; idempotent. */
  async reconcile(id: string): Promise<void> {
    const record = this.#records.find(id);
    if (!record || this.#stopping.aborted) return;
    switch (record.state) {
      case 'INITIALIZING':
        await this.#startUp(record);
        break;
      case 'READY':
      case 'DEGRADED':
      case 'UNREACHABLE':
      case 'PAUSED':
        await (record.desired === 'suspended' ? this.#parking.park(record) : this.#attach(record));
        break;
      case 'SUSPENDED':
        await this.#parking.leave(record);
        break;
      case 'FAILED':
        await this.#release(record);
        break;
      case 'DESTROYING':
        await this.#remove(record);
        break;
      case 'DESTROYED':
        break;
    }
  }

  async #startUp(found: TargetSystem): Promise<void> {
    if (this.#bindings.has(found.id)) {
      if (this.#generations.get(found.id) === found.generation) return;
      await this.#unbind(found.id);
    }
    const { hypervisor } = this.#options;
    let record = found;
    try {
      record = await this.#starting.begin(found);
      this.#records.show(record);
    } catch (error) {
      if (isPassing(error)) throw error;
      await this.#records.applyNow(record.id, {
        type: 'failed',
        evidence: this.#evidence('server', `could not be started: ${errorText(error)}`),
      });
      await this.#release(this.#records.get(record.id));
      return;
    }
    await this.reapplyParameters(record.id);
    this.#bind(record);
    if (record.start?.tier === 'warm') this.#spawn(this.mark(record));
    this.#spawn(this.#afterBootTimeout(record));
    // It may have stopped before anybody listened for that.
    const domain = await hypervisor.find(record.driver, record.id);
    if (domain?.state === 'stopped') this.#onDomain(domain);
  }

  async #attach(record: TargetSystem): Promise<void> {
    if (this.#bindings.has(record.id)) {
      await this.reapplyParameters(record.id);
      return;
    }
    const domain = await this.#options.hypervisor.find(record.driver, record.id);
    if (domain?.isSaved === true) {
      await this.#parking.bringBack(record);
      return;
    }
    if (domain && domain.state !== 'stopped') {
      await this.reapplyParameters(record.id);
      this.#bind(record);
      this.#spawn(this.mark(record));
      this.#spawn(this.#afterSilence(record));
      return;
    }
    await this.#records.applyNow(record.id, {
      type: 'stopped',
      evidence: this.#evidence('hypervisor', domain?.reason ?? 'the domain no longer exists'),
    });
    await this.reconcile(record.id);
  }

  /** What is left of a failed machine is taken down; its console and its record stay to be read. */
  async #release(record: TargetSystem): Promise<void> {
    await this.#unbind(record.id);
    await this.#meter?.measureLast(record);
    await this.#require();
    await this.#options.hypervisor.remove(record.driver, record.id);
    await this.#meter?.end(record.id);
  }

  async #remove(record: TargetSystem): Promise<void> {
    await this.#release(record);
    await this.#options.workspace.remove(record.id);
    await this.#records.applyNow(record.id, {
      type: 'removed',
      evidence: this.#evidence('hypervisor', 'domain and files are gone'),
    });
  }

  #bind(record: TargetSystem): void {
    this.#follow(record, createBinding(record, this.#options));
  }

  #follow(record: TargetSystem, binding: TargetBinding): void {
    this.#bindings.set(record.id, binding);
    this.#generations.set(record.id, record.generation);
    binding.onExit?.((bssId) => this.#exits.emit(record.id, bssId));
    binding.onChange((up) => {
      if (up) this.#answering.add(record.id);
      else this.#answering.delete(record.id);
      this.#spawn(up ? this.#onAgentUp(record.id, binding) : this.#onAgentDown(record));
    });
  }

  /** Why it may be silent is asked at once. */
  async #onAgentDown({ id, driver }: TargetSystem): Promise<void> {
    const evidence = this.#evidence('agent', 'the agent does not answer');
    await this.#records.apply(id, { type: 'agentDown', evidence });
    await this.#watch.look(driver);
  }

  /** An agent that was known to answer, and does not answer this server either. */
  async #afterSilence(record: TargetSystem): Promise<void> {
    const { clock, heartbeatMs } = this.#options;
    await clock.sleep(Math.max(3 * heartbeatMs, 10_000), this.#stopping).catch(() => undefined);
    if (this.#stopping.aborted || this.#answering.has(record.id)) return;
    await this.#onAgentDown(record);
  }

  async #unbind(id: string): Promise<void> {
    const binding = this.#bindings.get(id);
    this.#bindings.delete(id);
    this.#generations.delete(id);
    this.#answering.delete(id);
    this.#watch.forget(id);
    this.#guests.forget(id);
    await binding?.[Symbol.asyncDispose]();
  }

  /** Its first answer makes a machine READY; what it says of itself is asked for afterwards. */
  async #onAgentUp(id: string, binding: TargetBinding): Promise<void> {
    const starting = this.#records.find(id);
    if (!starting) return;
    if (needsIdentity(starting)) {
      await this.#records.queue(id, () => this.#identify(id, binding));
      const record = this.#records.find(id);
      if (!record || needsIdentity(record)) return;
    }
    const { boot: begun } = this.#records.find(id) ?? starting;
    const boot = { ...begun, readyMs: this.#options.clock.now() - bootBaseMs(starting) };
    const evidence = this.#evidence('agent', 'its agent answers');
    await this.#records.queue(id, () => this.#learnArrays(id, binding.arrays));
    await this.#records.apply(id, { type: 'agentUp', evidence, boot });
    this.#queues.ask(id).catch((error: unknown) => {
      this.#log.info({ vmId: id, err: errorText(error) }, 'the queues could not be asked for');
    });
    const facts = await binding.facts();
    if (facts) await this.#records.queue(id, () => this.#learn(id, facts));
  }

  /** Makes a machine that ran before another one. Only from inside the record's queue. */
  async #identify(id: string, binding: TargetBinding): Promise<void> {
    const record = this.#records.find(id);
    if (!record || this.#bindings.get(id) !== binding) return;
    if (!needsIdentity(record)) return;
    const { clock } = this.#options;
    try {
      if (!binding.assume) throw new Error('its TSI cannot make its machine another one');
      await this.reapplyParameters(id);
      const isCopy = record.start?.tier === 'warm';
      await binding.assume(newIdentity(record, clock.now(), { isCopy }));
      const boot = { ...record.boot, identityMs: clock.now() - record.createdMs };
      this.#records.show({ ...this.#records.get(id), boot });
    } catch (error) {
      if (this.#stopping.aborted) return;
      await this.#unbind(id);
      await this.#starting.fallBack(record, errorText(error));
      this.#records.schedule(id);
    }
  }

  /** Only from inside the record's queue. */
  async #learnArrays(id: string, arrays: boolean | undefined): Promise<void> {
    const record = this.#records.find(id);
    if (record && arrays !== undefined && record.arrays !== arrays)
      await this.#records.save({ ...record, arrays });
  }

  /** Only from inside the record's queue. */
  async #learn(id: string, facts: AgentFacts): Promise<void> {
    const record = this.#records.find(id);
    if (!record || !isUsable(record)) return;
    const isMachine = record.driver !== 'lxc';
    const now = this.#options.clock.now();
    const first = isBooted(record) ? record.boot.agentMs === undefined : record.facts === undefined;
    const boot =
      first && isBooted(record)
        ? completeTimeline(record.boot, facts, bootBaseMs(record), now, isMachine)
        : record.boot;
    this.#guests.heard(id);
    const next = { ...record, facts, boot };
    if (first) await this.#records.save(next);
    else this.#records.show(next);
    const { says, fact } = judge(facts);
    await this.#records.applyNow(id, {
      type: 'guest',
      says,
      evidence: this.#evidence('guest', fact),
    });
  }

  /**
   * That a domain does not run is news only of one that we know to have run: what is about to be started,
   * or started again after a crash of ours, does not run either.
   */
  #onDomain(domain: DomainView): void {
    const { id, state, reason } = domain;
    if (!this.#bindings.has(id)) return;
    this.#watch.onEvent(domain);
    if (state === 'stopped') this.#spawn(this.#onStopped(id, reason));
  }

  async #onStopped(id: string, reason: string): Promise<void> {
    await this.#records.queue(id, () => this.#stopped(id, reason));
    this.#records.schedule(id);
  }

  /**
   * The news may be old, or of a machine that another has taken the place of: it is looked again. Only from
   * inside the record's queue.
   */
  async #stopped(id: string, reason: string): Promise<void> {
    const record = this.#records.find(id);
    if (!record || !this.#bindings.has(id)) return;
    if (this.#generations.get(id) !== record.generation) return;
    const now = await this.#options.hypervisor.find(record.driver, id);
    if (now && now.state !== 'stopped') return;
    if (now?.isSaved) {
      const evidence = this.#evidence('hypervisor', 'parked on disk by somebody else');
      await this.#records.applyNow(id, { type: 'frozen', evidence });
      return;
    }
    const starting = record.state === 'INITIALIZING';
    const console = starting ? await this.#options.workspace.consoleTail(id, 400) : '';
    const fact = console === '' ? reason : `${reason}; its console ends: ${console}`;
    await this.#records.applyNow(id, {
      type: 'stopped',
      evidence: this.#evidence('hypervisor', fact),
    });
  }

  async #afterBootTimeout({ id, generation }: TargetSystem): Promise<void> {
    const { clock, bootTimeoutMs, workspace } = this.#options;
    let record: TargetSystem | undefined;
    do {
      await clock.sleep(bootTimeoutMs, this.#stopping).catch(() => undefined);
      if (this.#stopping.aborted) return;
      record = this.#records.find(id);
      // one that was halted while it booted has its time anew
    } while (record?.state === 'PAUSED' && record.views?.agent === undefined);
    if (record?.state !== 'INITIALIZING' || record.generation !== generation) return;
    const console = await workspace.consoleTail(id, 400);
    const seconds = Math.round(bootTimeoutMs / 1_000);
    const fact =
      `no agent answered within ${seconds} s of its start; ` +
      (console === '' ? 'its console is empty' : `its console ends: ${console}`);
    await this.#records.apply(id, { type: 'failed', evidence: this.#evidence('server', fact) });
  }

  async #compareAgainAndAgain(): Promise<void> {
    const { clock, compareMs = 30_000, hypervisor } = this.#options;
    for (;;) {
      await clock.sleep(compareMs, this.#stopping).catch(() => undefined);
      if (this.#stopping.aborted) return;
      for (const driver of hypervisor.available()) await this.#compare(driver);
      for (const { id } of this.#records.all()) await this.#records.reconcile(id);
    }
  }

  /** After start-up or a lost connection, and now and then: what does the hypervisor have, what do we? */
  async #compare(driver: Driver): Promise<void> {
    try {
      // Those only: what is started while the list is on its way may be missing from it.
      const bound = [...this.#bindings.keys()].filter(
        (id) => this.#records.get(id).driver === driver,
      );
      const domains = await this.#options.hypervisor.list(driver);
      for (const domain of domains) if (this.#records.find(domain.id)) this.#onDomain(domain);
      await this.#orphans.judge(driver, domains);
      await this.#orphans.sweep(domains);
      const known = new Set(domains.map(({ id }) => id));
      for (const id of bound)
        if (!known.has(id))
          this.#onDomain({ id, state: 'stopped', reason: 'the domain no longer exists' });
    } catch (error) {
      this.#log.warn(
        { driver, err: error },
        'the hypervisor could not be compared with our records',
      );
    }
  }

  #evidence(source: Evidence['source'], fact: string): Evidence {
    return { source, fact, atMs: this.#options.clock.now() };
  }

  /** Work that nobody waits for: its failure is told here and ends nothing else. */
  #spawn(work: Promise<unknown>): void {
    work.catch((error: unknown) => this.#log.error({ err: error }, 'news of a machine were lost'));
  }
}
