import { randomUUID } from 'node:crypto';
import { EventEmitter } from 'node:events';
import { imageFormats } from '#imagerepo/contract.js';
import { asGridError, errorText, GridError } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import { createSerial } from '#kernel/persistence/serial.js';
import type { AgentFacts } from '#tsi/protocol/facts.js';
import type { Target, TargetEvent, Targets } from '../target.js';
import { completeTimeline } from './boot.js';
import { createBinding } from './create-binding.js';
import { domainXml } from './domain-xml.js';
import type { DomainView } from './hypervisor.js';
import { networkDefinition } from './network.js';
import { chooseDriver, chooseParameters } from './parameters.js';
import { step, VmError, type VmEvent, type VmState } from './state.js';
import { idbSubject, type Driver, type Evidence, type TargetSystem } from './target-system.js';
import type { TargetBinding } from './target-binding.js';
import type { NewTargetSystem, TargetSystemsOptions } from './target-systems-options.js';
import { requireNetwork } from './tsi-network.js';

/** How long a reconciliation waits after a failure before it tries again. */
const retryMs = 1_000;
/** States whose machine is proven gone, or about to be. */
const gone: ReadonlySet<VmState> = new Set(['FAILED', 'DESTROYING', 'DESTROYED']);
/** How often expired target systems are looked for. */
const reaperMs = 1_000;

/**
 * The target systems of this server and their virtual machines. Each record is changed by `step` alone,
 * one event at a time, and is stored before anything is done about it; `#reconcile` then makes the world
 * look like the record, and may be repeated at any time.
 */
export class TargetSystems implements Targets, AsyncDisposable {
  readonly #options: TargetSystemsOptions;
  readonly #log: Log;
  readonly #records = new Map<string, TargetSystem>();
  readonly #bindings = new Map<string, TargetBinding>();
  /** One piece of work after the other for each record. */
  readonly #queue = createSerial();
  readonly #listeners = new Set<(event: TargetEvent) => void>();
  /** By target system: ids of jobs whose end its agent has told. */
  readonly #exits = new EventEmitter();
  readonly #stopping = new AbortController();
  readonly #unsubscribe: (() => void)[] = [];

  constructor(options: TargetSystemsOptions) {
    this.#options = options;
    this.#log = options.log.child({ part: 'xnjs.vm' });
  }

  /** Re-attaches to what ran before, finishes what was begun, removes what nobody owns. */
  async start(): Promise<void> {
    const { store, hypervisor } = this.#options;
    for (const record of await store.all()) this.#records.set(record.id, record);
    this.#unsubscribe.push(
      hypervisor.onDomain((domain) => this.#onDomain(domain)),
      hypervisor.onAvailable((driver) => this.#spawn(this.#compare(driver))),
    );
    for (const record of this.#records.values()) this.#schedule(record.id);
    for (const driver of hypervisor.available()) this.#spawn(this.#compare(driver));
    this.#spawn(this.#reap());
  }

  /** The most that one target system may have. */
  get limits(): TargetSystemsOptions['limits'] {
    return this.#options.limits;
  }

  /** Every record, the newest first. */
  list(filter: { ownerDn?: string } = {}): TargetSystem[] {
    return [...this.#records.values()]
      .filter((record) => filter.ownerDn === undefined || record.ownerDn === filter.ownerDn)
      .sort((a, b) => b.createdMs - a.createdMs);
  }

  /** @throws {@link VmError} `NOT_FOUND` */
  get(id: string): TargetSystem {
    const record = this.#records.get(id);
    if (!record) throw new VmError('NOT_FOUND', `there is no target system ${id}`, { vmId: id });
    return record;
  }

  /**
   * Stores the wish and returns; the virtual machine starts behind the caller's back.
   * @throws `IMAGE_UNKNOWN`; `BAD_REQUEST` naming the parameter and its range; `HYPERVISOR_UNAVAILABLE`
   */
  async create(wish: NewTargetSystem): Promise<TargetSystem> {
    // One after the other for each user, so that two at once do not both pass the limit.
    return await this.#queue(`user ${wish.ownerDn}`, () => this.#create(wish));
  }

  async #create(wish: NewTargetSystem): Promise<TargetSystem> {
    const { images, store, clock, limits, hypervisor } = this.#options;
    const mine = this.list({ ownerDn: wish.ownerDn }).filter(({ state }) => state !== 'DESTROYING');
    if (mine.length >= limits.perUser)
      throw new VmError(
        'BAD_REQUEST',
        `the limit of ${limits.perUser} target systems per user is reached`,
      );
    const image = await images.find(wish.image, wish.ownerDn);
    requireNetwork(image.metadata.tsi, this.#options.network);
    const requestedMs = clock.now();
    const record: TargetSystem = {
      id: randomUUID(),
      ownerDn: wish.ownerDn,
      image: { id: image.id, metadata: image.metadata, parts: image.parts },
      parameters: chooseParameters(wish.parameters, image.metadata, limits),
      driver: chooseDriver(image.metadata, hypervisor.available()),
      state: 'INITIALIZING',
      evidence: { source: 'user', fact: 'requested', atMs: requestedMs },
      boot: {},
      tags: wish.tags,
      ...(wish.jobId !== undefined && { jobId: wish.jobId }),
      createdMs: requestedMs,
      ...(wish.terminationMs !== undefined && { terminationMs: wish.terminationMs }),
    };
    await store.save(record);
    this.#records.set(record.id, record);
    this.#log.info(
      { vmId: record.id, imageId: image.id, dn: wish.ownerDn },
      'target system requested',
    );
    this.#schedule(record.id);
    return record;
  }

  /** Changes what is not the machine's: tags, life time. */
  async update(
    id: string,
    change: { tags?: readonly string[]; terminationMs?: number },
  ): Promise<TargetSystem> {
    return await this.#queue(id, async () => {
      const next = { ...this.get(id), ...change };
      await this.#options.store.save(next);
      this.#records.set(id, next);
      return next;
    });
  }

  /** Accepts the deletion; the record is gone when domain and files are. */
  async destroy(id: string, fact = 'deleted by its owner'): Promise<void> {
    this.get(id);
    await this.#apply(id, { type: 'destroy', evidence: this.#evidence('user', fact) });
  }

  /** Of a machine with a network: what the hypervisor gave it. */
  async addresses(id: string): Promise<readonly string[]> {
    const { driver, image, state } = this.get(id);
    if (image.metadata.tsi.transport !== 'tcp' || gone.has(state)) return [];
    return await this.#options.hypervisor.addresses(driver, id);
  }

  /** Console of the guest, for people who look for what went wrong. */
  async consoleTail(id: string): Promise<string> {
    return await this.#options.workspace.consoleTail(id);
  }

  find(targetId: string): Target | undefined {
    const record = this.#records.get(targetId);
    if (!record || gone.has(record.state)) return undefined;
    const { metadata } = record.image;
    const { idb } = this.#options;
    const target: Target = {
      ownerDn: record.ownerDn,
      identity: { login: metadata.tsi.login, groups: 'DEFAULT_GID' },
      jobsDirectory: metadata.tsi.jobsDirectory,
      ...idbSubject(record),
      tsi: () => {
        const binding = this.#bindings.get(targetId);
        if (binding && this.get(targetId).state === 'READY') return binding.tsi;
        const text = `the TSI of target system ${targetId} is not reachable`;
        throw new GridError('TSI_UNAVAILABLE', text, { vmId: targetId });
      },
      onExit: (listener) => {
        this.#exits.on(targetId, listener);
        return () => this.#exits.off(targetId, listener);
      },
    };
    return idb ? { ...target, idb: idb.bind(target) } : target;
  }

  subscribe(listener: (event: TargetEvent) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Lets go of every machine; they run on, and `start` finds them again. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#stopping.abort();
    for (const end of this.#unsubscribe.splice(0)) end();
    const idle = [...this.#records.keys()].map((id) => this.#queue(id, () => Promise.resolve()));
    await Promise.allSettled(idle);
    await Promise.allSettled([...this.#bindings.keys()].map((id) => this.#unbind(id)));
  }

  #evidence(source: Evidence['source'], fact: string): Evidence {
    return { source, fact, atMs: this.#options.clock.now() };
  }

  async #apply(id: string, event: VmEvent): Promise<void> {
    await this.#queue(id, () => this.#applyNow(id, event));
    this.#schedule(id);
  }

  /** Only from inside the record's queue. */
  async #applyNow(id: string, event: VmEvent): Promise<void> {
    const before = this.#records.get(id);
    if (!before) return;
    const after = step(before, event);
    if (after.state === before.state && after.evidence.fact === before.evidence.fact) return;
    if (after.state === 'DESTROYED') {
      await this.#options.store.remove(id);
      this.#records.delete(id);
    } else {
      await this.#options.store.save(after);
      this.#records.set(id, after);
    }
    if (after.state === before.state) return;
    this.#log.info(
      { vmId: id, from: before.state, to: after.state, fact: event.evidence.fact },
      'target system changed',
    );
    this.#announce(before, after);
  }

  #announce(before: TargetSystem, after: TargetSystem): void {
    const event: TargetEvent | undefined =
      after.state === 'READY'
        ? { type: 'ready', targetId: after.id }
        : gone.has(after.state) && !gone.has(before.state)
          ? { type: 'lost', targetId: after.id, reason: after.evidence.fact }
          : undefined;
    if (event) for (const listener of this.#listeners) listener(event);
  }

  #schedule(id: string): void {
    if (this.#stopping.signal.aborted) return;
    void this.#queue(id, () => this.#reconcile(id)).catch((error: unknown) => {
      this.#log.warn(
        { vmId: id, err: error },
        'target system could not be reconciled, trying again',
      );
      this.#spawn(this.#later(retryMs, () => this.#schedule(id)));
    });
  }

  async #later(ms: number, work: () => void): Promise<void> {
    try {
      await this.#options.clock.sleep(ms, this.#stopping.signal);
      work();
    } catch {
      // stopping
    }
  }

  /** Makes the world look like the record. Only from inside the record's queue; idempotent. */
  async #reconcile(id: string): Promise<void> {
    const record = this.#records.get(id);
    if (!record || this.#stopping.signal.aborted) return;
    switch (record.state) {
      case 'INITIALIZING':
        await this.#startUp(record);
        break;
      case 'READY':
      case 'UNREACHABLE':
        await this.#attach(record);
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

  async #startUp(record: TargetSystem): Promise<void> {
    if (this.#bindings.has(record.id)) return;
    const { hypervisor, images, workspace, clock, installationId } = this.#options;
    try {
      const parts: Record<string, string> = {};
      for (const name of imageFormats[record.image.metadata.format].parts)
        parts[name] = await images.fetch(record.image, name, record.ownerDn);
      const paths = await workspace.prepare(record, parts);
      const { network } = this.#options;
      if (network && record.image.metadata.tsi.transport === 'tcp')
        await hypervisor.ensureNetwork(record.driver, networkDefinition(network));
      const xml = domainXml(record, paths, installationId, network);
      const { definedMs } = await hypervisor.start(record.driver, record.id, xml);
      const startedMs = clock.now() - record.createdMs;
      const boot = { definedMs: definedMs - record.createdMs, startedMs };
      // Seen at once, stored with the next event.
      this.#records.set(record.id, { ...record, boot });
    } catch (error) {
      if (isPassing(error)) throw error;
      await this.#applyNow(record.id, {
        type: 'failed',
        evidence: this.#evidence('server', `could not be started: ${errorText(error)}`),
      });
      await this.#release(this.get(record.id));
      return;
    }
    this.#bind(record);
    const { bootTimeoutMs } = this.#options;
    this.#spawn(this.#later(bootTimeoutMs, () => this.#spawn(this.#onBootTimeout(record.id))));
    // It may have stopped before anybody listened for that.
    const domain = await hypervisor.find(record.driver, record.id);
    if (domain?.state === 'stopped') this.#onDomain(domain);
  }

  async #attach(record: TargetSystem): Promise<void> {
    if (this.#bindings.has(record.id)) return;
    const domain = await this.#options.hypervisor.find(record.driver, record.id);
    if (domain?.state === 'running' || domain?.state === 'paused') {
      this.#bind(record);
      return;
    }
    await this.#applyNow(record.id, {
      type: 'stopped',
      evidence: this.#evidence('hypervisor', domain?.reason ?? 'the domain no longer exists'),
    });
    await this.#release(this.get(record.id));
  }

  /** What is left of a failed machine is taken down; its console and its record stay to be read. */
  async #release(record: TargetSystem): Promise<void> {
    await this.#unbind(record.id);
    await this.#options.hypervisor.remove(record.driver, record.id);
  }

  async #remove(record: TargetSystem): Promise<void> {
    await this.#release(record);
    await this.#options.workspace.remove(record.id);
    await this.#applyNow(record.id, {
      type: 'removed',
      evidence: this.#evidence('hypervisor', 'domain and files are gone'),
    });
  }

  #bind(record: TargetSystem): void {
    const binding = createBinding(record, this.#options);
    this.#bindings.set(record.id, binding);
    binding.onExit?.((bssId) => this.#exits.emit(record.id, bssId));
    binding.onChange((up) => {
      const evidence = this.#evidence('agent', 'the agent does not answer');
      this.#spawn(
        up
          ? this.#onAgentUp(record.id, binding)
          : this.#apply(record.id, { type: 'agentDown', evidence }),
      );
    });
  }

  async #unbind(id: string): Promise<void> {
    const binding = this.#bindings.get(id);
    this.#bindings.delete(id);
    await binding?.[Symbol.asyncDispose]();
  }

  /** Its first answer makes a machine READY; what it says of itself is asked for afterwards. */
  async #onAgentUp(id: string, binding: TargetBinding): Promise<void> {
    const starting = this.#records.get(id);
    if (!starting) return;
    const boot = { ...starting.boot, readyMs: this.#options.clock.now() - starting.createdMs };
    const evidence = this.#evidence('agent', 'its agent answers');
    await this.#apply(id, { type: 'agentUp', evidence, boot });
    const facts = await binding.facts();
    if (facts) await this.#queue(id, () => this.#learn(id, facts));
  }

  /** Only from inside the record's queue. */
  async #learn(id: string, facts: AgentFacts): Promise<void> {
    const record = this.#records.get(id);
    if (record?.state !== 'READY') return;
    const isMachine = record.driver !== 'lxc';
    const now = this.#options.clock.now();
    const first = record.boot.agentMs === undefined;
    const boot = first
      ? completeTimeline(record.boot, facts, record.createdMs, now, isMachine)
      : record.boot;
    await this.#options.store.save({ ...record, facts, boot });
    this.#records.set(id, { ...record, facts, boot });
  }

  /** Work that nobody waits for: its failure is told here and ends nothing else. */
  #spawn(work: Promise<unknown>): void {
    work.catch((error: unknown) => this.#log.error({ err: error }, 'news of a machine were lost'));
  }

  /**
   * That a domain does not run is news only of one that we know to have run: what is about to be started,
   * or started again after a crash of ours, does not run either.
   */
  #onDomain({ id, state, reason }: DomainView): void {
    if (state === 'stopped' && this.#bindings.has(id)) this.#spawn(this.#onStopped(id, reason));
  }

  async #onStopped(id: string, reason: string): Promise<void> {
    const starting = this.#records.get(id)?.state === 'INITIALIZING';
    const console = starting ? await this.#options.workspace.consoleTail(id, 400) : '';
    const fact = console === '' ? reason : `${reason}; its console ends: ${console}`;
    await this.#apply(id, { type: 'stopped', evidence: this.#evidence('hypervisor', fact) });
  }

  async #onBootTimeout(id: string): Promise<void> {
    const record = this.#records.get(id);
    if (record?.state !== 'INITIALIZING') return;
    const console = await this.#options.workspace.consoleTail(id, 400);
    const seconds = Math.round(this.#options.bootTimeoutMs / 1_000);
    const fact =
      `no agent answered within ${seconds} s of its start; ` +
      (console === '' ? 'its console is empty' : `its console ends: ${console}`);
    await this.#apply(id, { type: 'failed', evidence: this.#evidence('server', fact) });
  }

  /** After start-up or a lost connection: what does the hypervisor have, what do we? */
  async #compare(driver: Driver): Promise<void> {
    try {
      // Those only: what is started while the list is on its way may be missing from it.
      const bound = [...this.#bindings.keys()].filter((id) => this.get(id).driver === driver);
      const domains = await this.#options.hypervisor.list(driver);
      for (const domain of domains) {
        if (this.#records.has(domain.id)) this.#onDomain(domain);
        else {
          // The record is stored before its domain is defined, and removed after it: this is a leftover.
          this.#log.warn({ vmId: domain.id }, 'a domain of ours without a record is removed');
          await this.#options.hypervisor.remove(driver, domain.id);
          await this.#options.workspace.remove(domain.id);
        }
      }
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

  async #reap(): Promise<void> {
    const now = this.#options.clock.now();
    const evidence = this.#evidence('server', 'its life time is over');
    for (const { id, terminationMs, state } of this.#records.values())
      if (terminationMs !== undefined && terminationMs <= now && state !== 'DESTROYING')
        await this.#apply(id, { type: 'destroy', evidence });
    await this.#later(reaperMs, () => this.#spawn(this.#reap()));
  }
}

/** Worth another try without a word to the user: the hypervisor or the image repository is away. */
function isPassing(error: unknown): boolean {
  const known = asGridError(error);
  return known?.row.retry === true && known.code !== 'STORAGE_FULL';
}
