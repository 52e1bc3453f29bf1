import { randomBytes } from 'node:crypto';
import { EventEmitter } from 'node:events';
import { asGridError, errorText } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import type { AgentFacts } from '#tsi/protocol/facts.js';
import type { MachineIdentity } from '#tsi/protocol/machine-identity.js';
import type { SetupReport } from '#tsi/protocol/machine-setup.js';
import { completeTimeline } from './boot.js';
import { without } from '../job/without.js';
import { failedSetup, hasProblem, olderAgent, setupOf } from './context/machine-setup.js';
import { createBinding } from './create-binding.js';
import { ExpectedAgents } from './expected-agents.js';
import { seatOf, type Seat } from './hosts/host.js';
import { GuestWatch, judge } from './guest-watch.js';
import { isUsable } from './state.js';
import type { SystemRecords } from './system-records.js';
import type { TargetBinding } from './target-binding.js';
import { bootBaseMs, type Evidence, type TargetSystem } from './target-system.js';
import type { TargetSystemsOptions } from './target-systems-options.js';
import { isBooted, needsIdentity, newIdentity, sharesIdentity } from './tiers/identity.js';
import type { Claimed } from './tiers/held-spare.js';
import type { Views } from './views.js';

export type AgentsOptions = {
  readonly systems: TargetSystemsOptions;
  readonly records: SystemRecords;
  readonly log: Log;
  readonly stopping: AbortSignal;
  /** An agent is silent: its hypervisor is asked why. */
  readonly onSilence: (seat: Seat) => Promise<void>;
  /** Its queues may be asked for. */
  readonly onUp: (id: string) => Promise<void>;
  /** Nothing of it is followed any more. */
  readonly onUnbound: (id: string) => void;
  /** Gives the machine what its record says. Only from inside the record's queue. */
  readonly reapply: (id: string) => Promise<void>;
  /** It cannot be made another machine, and is to be booted. Only from inside the record's queue. */
  readonly fallBack: (record: TargetSystem, why: string) => Promise<void>;
};

/** The agents of the machines that have been started: whether they answer, and what they tell. */
export class Agents implements AsyncDisposable {
  readonly #options: AgentsOptions;
  readonly #records: SystemRecords;
  readonly #bindings = new Map<string, TargetBinding>();
  /** Which of the machines that a target system has had is bound. */
  readonly #generations = new Map<string, number | undefined>();
  /** By target system: ids of jobs whose end its agent has told. */
  readonly #exits = new EventEmitter();
  /** Whose ends of jobs are told, and what ends that. */
  readonly #followed = new WeakMap<TargetBinding, () => void>();
  readonly #answering = new Set<string>();
  /** Those that have answered before. */
  readonly #expected: ExpectedAgents;
  readonly #guests: GuestWatch;

  constructor(options: AgentsOptions) {
    const { systems, records, log, stopping } = options;
    this.#options = options;
    this.#records = records;
    this.#guests = new GuestWatch({
      bindings: () => [...this.#bindings].filter(([id]) => this.#answering.has(id)),
      intervalMs: systems.guestMs ?? 30_000,
      learn: async (id, facts) => {
        await records.queue(id, () => this.#learn(id, facts));
        await this.#renew(id);
      },
      ...{ clock: systems.clock, log, stopping },
    });
    const onOver = (record: TargetSystem): void => this.#onMissed(record);
    this.#expected = new ExpectedAgents({ ...systems, stopping, onOver });
  }

  /** Asks agents now and then how their guests are. */
  async watchGuests(): Promise<void> {
    await this.#guests.watch();
  }

  /** Whether its agent answers this server at present. */
  answers(id: string): boolean {
    return this.#answering.has(id);
  }

  /** Of those whose machines have been started. */
  bound(): Iterable<string> {
    return this.#bindings.keys();
  }

  /** What is bound to a machine that has been started. */
  find(id: string): TargetBinding | undefined {
    return this.#bindings.get(id);
  }

  /** Whether what is bound is the machine that the record tells of, and not an earlier one. */
  isCurrent({ id, generation }: TargetSystem): boolean {
    return this.#bindings.has(id) && this.#generations.get(id) === generation;
  }

  /** When agent and guest were last heard; ms since the epoch. */
  heard(id: string): Pick<Partial<Record<keyof Views, number>>, 'agent' | 'guest'> {
    const agent = this.#bindings.get(id)?.heardMs;
    const guest = this.#guests.heardMs(id);
    return { ...(agent !== undefined && { agent }), ...(guest !== undefined && { guest }) };
  }

  /** @returns ends it */
  onExit(id: string, listener: (bssId: string) => void): () => void {
    this.#exits.on(id, listener);
    this.#followExits(id);
    return () => {
      this.#exits.off(id, listener);
      if (this.#exits.listenerCount(id) === 0) this.#leaveExits(id);
    };
  }

  bind(record: TargetSystem): void {
    const { systems } = this.#options;
    this.#follow(
      record,
      createBinding(record, systems, () => this.#identityOf(record)),
    );
  }

  /** One that answered before the machine became this target system's. */
  adopt({ record, binding, becoming }: Claimed): void {
    this.#follow(record, binding);
    this.#answering.add(record.id);
    this.#spawn(this.#onUp(record.id, binding, becoming));
  }

  /** One that was known to answer is found silent if it does not answer this server soon. */
  expect(record: TargetSystem): void {
    if (record.views?.agent?.says !== 'down') this.#expected.add(record);
  }

  /** Its time to answer is over. */
  #onMissed(record: TargetSystem): void {
    const isThere = this.#records.find(record.id)?.generation === record.generation;
    if (isThere && !this.#answering.has(record.id)) this.#spawn(this.#onDown(record));
  }

  async unbind(id: string): Promise<void> {
    const binding = this.#bindings.get(id);
    this.#bindings.delete(id);
    this.#generations.delete(id);
    this.#answering.delete(id);
    this.#guests.forget(id);
    this.#options.onUnbound(id);
    await binding?.[Symbol.asyncDispose]();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.allSettled([...this.#bindings.keys()].map((id) => this.unbind(id)));
  }

  #follow(record: TargetSystem, binding: TargetBinding): void {
    this.#bindings.set(record.id, binding);
    this.#generations.set(record.id, record.generation);
    if (this.#exits.listenerCount(record.id) > 0) this.#followExits(record.id);
    binding.onChange((up) => {
      if (up) this.#answering.add(record.id);
      else this.#answering.delete(record.id);
      this.#spawn(up ? this.#onUp(record.id, binding) : this.#onDown(record));
    });
  }

  /** Only while somebody wants to know: it takes a stream of the link, which does not rest meanwhile. */
  #followExits(id: string): void {
    const binding = this.#bindings.get(id);
    if (!binding || this.#followed.has(binding)) return;
    const end = binding.onExit?.((bssId) => this.#exits.emit(id, bssId));
    if (end) this.#followed.set(binding, end);
  }

  #leaveExits(id: string): void {
    const binding = this.#bindings.get(id);
    if (!binding) return;
    this.#followed.get(binding)?.();
    this.#followed.delete(binding);
  }

  /** Why it may be silent is asked at once. */
  async #onDown(record: TargetSystem): Promise<void> {
    const evidence = this.#evidence('agent', 'the agent does not answer');
    await this.#records.apply(record.id, { type: 'agentDown', evidence });
    await this.#options.onSilence(seatOf(record));
  }

  /** Its first answer makes a machine READY; what it says of itself is asked for afterwards. */
  async #onUp(id: string, binding: TargetBinding, becoming?: Promise<void>): Promise<void> {
    const starting = this.#records.find(id);
    if (!starting) return;
    if (needsIdentity(starting)) {
      await this.#records.queue(id, () => this.#identify(id, binding, becoming));
      const record = this.#records.find(id);
      if (!record || needsIdentity(record)) return;
      // a spare has proved itself on this connection already, as that is made
      const isProved = starting.enrolment?.keyHash !== undefined;
      if (!isProved && !(await this.#proves(id, binding))) return;
    }
    const doubt = sharesIdentity(starting) ? await this.#distinguish(id, binding) : '';
    if (doubt === undefined) return;
    if (starting.isBehind) await this.#records.queue(id, () => this.#tellTime(id, binding));
    if (!(await this.#setUp(id, binding))) return;
    const { boot: begun } = this.#records.find(id) ?? starting;
    const boot = { ...begun, readyMs: this.#options.systems.clock.now() - bootBaseMs(starting) };
    const evidence = this.#evidence('agent', `its agent answers${doubt}`);
    await this.#records.queue(id, () => this.#learnArrays(id, binding.arrays));
    await this.#records.apply(id, { type: 'agentUp', evidence, boot });
    this.#spawn(this.#options.onUp(id));
    const facts = await binding.facts();
    if (facts) await this.#records.queue(id, () => this.#learn(id, facts));
  }

  /**
   * Before jobs run there: what its owner has asked for is given to the machine. What it cannot have is told, and
   * no reason not to use it.
   * @returns `false`: the link was lost; the next one begins with that
   */
  async #setUp(id: string, binding: TargetBinding): Promise<boolean> {
    const { log, stopping } = this.#options;
    const record = this.#records.find(id);
    const setup = record && setupOf(record);
    if (!setup || !binding.setUp) return true;
    let report: SetupReport;
    try {
      report = (await binding.setUp(setup)) ?? failedSetup(setup, olderAgent);
    } catch (error) {
      if (stopping.aborted || !this.#answering.has(id)) return false;
      report = failedSetup(setup, errorText(error));
    }
    if (hasProblem(report))
      log.warn({ vmId: id, report }, 'a machine could not be given all that it is to have');
    await this.#records.queue(id, async () => {
      const now = this.#records.find(id);
      if (now && JSON.stringify(now.setup) !== JSON.stringify(report))
        await this.#records.save({ ...now, setup: report });
    });
    return true;
  }

  /** Tells a machine that stood still the time, if its agent answers. Only from inside the record's queue. */
  async catchUp(id: string): Promise<void> {
    const binding = this.#bindings.get(id);
    if (binding && this.#answering.has(id)) await this.#tellTime(id, binding);
  }

  async #tellTime(id: string, binding: TargetBinding): Promise<void> {
    const record = this.#records.find(id);
    if (!record?.isBehind || this.#bindings.get(id) !== binding) return;
    const { systems, log, stopping } = this.#options;
    const seed = randomBytes(64).toString('base64');
    try {
      await binding.catchUp?.({ timeMs: systems.clock.now(), seed });
    } catch (error) {
      // it will answer again, and is told then
      if (stopping.aborted || !this.#answering.has(id)) return;
      log.warn({ vmId: id, err: errorText(error) }, 'the clock of a machine could not be set');
    }
    await this.#records.save(without(this.#records.get(id), 'isBehind'));
  }

  /** Told to a copy with the first word: `undefined` as soon as it is confirmed. */
  #identityOf({ id, generation }: TargetSystem): MachineIdentity | undefined {
    const record = this.#records.find(id);
    if (record?.generation !== generation || record?.start?.tier !== 'warm') return undefined;
    if (!needsIdentity(record)) return undefined;
    return newIdentity(record, this.#options.systems.clock.now(), { isCopy: true });
  }

  /**
   * Makes a machine that ran before another one. Only from inside the record's queue.
   * @param becoming where that was begun before it was this target system's
   */
  async #identify(id: string, binding: TargetBinding, becoming?: Promise<void>): Promise<void> {
    const record = this.#records.find(id);
    if (!record || this.#bindings.get(id) !== binding) return;
    if (!needsIdentity(record)) return;
    const { systems, stopping, reapply, fallBack } = this.#options;
    const { clock } = systems;
    try {
      if (!binding.assume) throw new Error('its TSI cannot make its machine another one');
      await reapply(id);
      const isCopy = record.start?.tier === 'warm';
      if (binding.isAnother !== true)
        await (becoming ?? binding.assume(newIdentity(record, clock.now(), { isCopy })));
      const boot = { ...record.boot, identityMs: clock.now() - record.createdMs };
      this.#records.show({ ...this.#records.get(id), boot });
    } catch (error) {
      if (stopping.aborted) return;
      await this.unbind(id);
      await fallBack(record, errorText(error));
      this.#records.schedule(id);
    }
  }

  /**
   * Gives a machine that was booted from what others are booted from an identity of its own. Where it cannot be
   * given one, for its image forbids that or has no tool for it, its owner is told.
   * @returns what there is to say of that; `undefined`: the link was lost, and the next one begins with this
   */
  async #distinguish(id: string, binding: TargetBinding): Promise<string | undefined> {
    const { systems, log, stopping } = this.#options;
    const { clock } = systems;
    const record = this.#records.get(id);
    if (!binding.assume) return '';
    try {
      await binding.assume(newIdentity(record, clock.now(), { isCopy: false }));
    } catch (error) {
      if (stopping.aborted || !this.#answering.has(id)) return undefined;
      const reason = errorText(error);
      log.warn({ vmId: id, reason }, 'a machine has the identity of its image');
      return `; it could be given no identity of its own: ${reason}`;
    }
    await this.#records.queue(id, () => {
      const now = this.#records.find(id);
      const identityMs = clock.now() - bootBaseMs(record);
      if (now) this.#records.show({ ...now, boot: { ...now.boot, identityMs } });
      return Promise.resolve();
    });
    return '';
  }

  /** Its certificate, while it has time left. */
  async #renew(id: string): Promise<void> {
    const record = this.#records.find(id);
    const { enrolments } = this.#options.systems;
    if (record && enrolments?.isDue(record) === true) await this.#bindings.get(id)?.prove?.();
  }

  /**
   * A machine that has become another one, by a key that it makes after its random numbers are others. Where it
   * cannot, it is booted; where the link is lost, the next one begins with that.
   */
  async #proves(id: string, binding: TargetBinding): Promise<boolean> {
    try {
      await binding.prove?.();
      return true;
    } catch (error) {
      if (asGridError(error)?.code !== 'FORBIDDEN' || this.#options.stopping.aborted) return false;
      await this.#records.queue(id, async () => {
        const record = this.#records.find(id);
        if (!record || this.#bindings.get(id) !== binding) return;
        await this.unbind(id);
        await this.#options.fallBack(record, errorText(error));
      });
      this.#records.schedule(id);
      return false;
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
    const now = this.#options.systems.clock.now();
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
    const evidence = this.#evidence('guest', fact);
    await this.#records.applyNow(id, { type: 'guest', says, evidence });
  }

  #evidence(source: Evidence['source'], fact: string): Evidence {
    return { source, fact, atMs: this.#options.systems.clock.now() };
  }

  /** Work that nobody waits for: its failure is told here and ends nothing else. */
  #spawn(work: Promise<unknown>): void {
    work.catch((error: unknown) => {
      this.#options.log.error({ err: error }, 'news of an agent were lost');
    });
  }
}
