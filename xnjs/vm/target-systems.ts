import { randomUUID } from 'node:crypto';
import type { Duplex } from 'node:stream';
import { asGridError, GridError } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import { createSerial } from '#kernel/persistence/serial.js';
import { mergeIdb, type TargetIdb } from '../idb/idb.js';
import { Reaper } from '../reaper.js';
import type { Target, TargetEvent, Targets } from '../target.js';
import { Machines } from './machines.js';
import { siteChange, type SiteChange } from '../changes/site-change.js';
import { changeParameters, chooseDriver, chooseParameters } from './parameters.js';
import { step, VmError, type VmEvent, type VmState } from './state.js';
import type { TargetBinding } from './target-binding.js';
import {
  idbSubject,
  identityOf,
  type ChangeableName,
  type Evidence,
  type ParameterChange,
  type TargetSystem,
} from './target-system.js';
import type { NewTargetSystem, TargetSystemsOptions } from './target-systems-options.js';
import type { Usage, UsageFilter, UsageOfOwner } from './usage.js';
import { SparePool, type Claimed } from './tiers/spare-pool.js';
import { Templates } from './tiers/templates.js';
import { UsageMeter } from './usage-meter.js';
import { requireNetwork } from './tsi-network.js';

/** How long a reconciliation waits after a failure before it tries again. */
const retryMs = 1_000;
/** States whose machine is proven gone, or about to be. */
const gone: ReadonlySet<VmState> = new Set(['FAILED', 'DESTROYING', 'DESTROYED']);
/** How often expired target systems are looked for. */
const reaperMs = 1_000;

/**
 * The target systems of this server and their virtual machines. Each record is changed by `step` alone,
 * one event at a time, and is stored before anything is done about it; {@link Machines} then makes the world
 * look like the record, which may be repeated at any time.
 */
export class TargetSystems implements Targets, AsyncDisposable {
  readonly #options: TargetSystemsOptions;
  readonly #log: Log;
  readonly #records = new Map<string, TargetSystem>();
  readonly #machines: Machines;
  readonly #meter: UsageMeter | undefined;
  readonly #spares: SparePool | undefined;
  readonly #templates: Templates | undefined;
  /** One piece of work after the other for each record. */
  readonly #queue = createSerial();
  readonly #listeners = new Set<(event: TargetEvent) => void>();
  readonly #stopping = new AbortController();
  readonly #reaper: Reaper;

  constructor(options: TargetSystemsOptions) {
    this.#options = options;
    this.#log = options.log.child({ part: 'xnjs.vm' });
    const records = {
      find: (id: string) => this.#records.get(id),
      get: (id: string) => this.get(id),
      queue: (id: string, work: () => Promise<void>) => this.#queue(id, work),
      apply: (id: string, event: VmEvent) => this.#apply(id, event),
      applyNow: (id: string, event: VmEvent) => this.#applyNow(id, event),
      save: (record: TargetSystem) => this.#save(record),
      show: (record: TargetSystem) => void this.#records.set(record.id, record),
      schedule: (id: string) => this.#schedule(id),
    };
    const stopping = this.#stopping.signal;
    const { usage, hypervisor, clock, log } = options;
    const findSystem = records.find;
    this.#meter =
      usage && new UsageMeter({ ...usage, hypervisor, findSystem, clock, log, stopping });
    const isBusy = (): boolean =>
      [...this.#records.values()].some(({ state }) => state === 'INITIALIZING');
    this.#spares =
      options.spares && new SparePool({ ...options, spares: options.spares, isBusy, stopping });
    this.#templates =
      options.warm && new Templates({ ...options, warm: options.warm, isBusy, stopping });
    const pools = { spares: this.#spares, templates: this.#templates };
    const others = { stopping, meter: this.#meter, ...pools };
    this.#machines = new Machines(options, records, others);
    this.#reaper = new Reaper(
      { clock, log: this.#log, intervalMs: reaperMs },
      {
        what: 'target system',
        expired: (nowMs) => this.#expired(nowMs),
        end: (id) => {
          const evidence = this.#evidence('server', 'its life time is over');
          return this.#apply(id, { type: 'destroy', evidence });
        },
      },
    );
  }

  /** Re-attaches to what ran before, finishes what was begun, removes what nobody owns. */
  async start(): Promise<void> {
    for (const record of await this.#options.store.all()) this.#records.set(record.id, record);
    await this.#spares?.load();
    await this.#templates?.load();
    await this.#meter?.start([...this.#records.keys()]);
    for (const record of this.#records.values()) this.#schedule(record.id);
    this.#machines.start();
    this.#spares?.start();
    this.#templates?.start();
    this.#reaper.start();
  }

  /** The most that one target system may have. */
  get limits(): TargetSystemsOptions['limits'] {
    return this.#options.limits;
  }

  /** What it has used as far as measured; `undefined`: nothing was yet. */
  usage(id: string): Usage | undefined {
    return this.#meter?.find(id);
  }

  /** What target systems have used, those that are gone too, the newest first. */
  async accounts(
    filter: UsageFilter,
    page: { offset: number; num: number },
  ): Promise<{ usages: Usage[]; total: number }> {
    return (await this.#options.usage?.store.list(filter, page)) ?? { usages: [], total: 0 };
  }

  async usageByOwner(): Promise<UsageOfOwner[]> {
    return (await this.#options.usage?.store.sums()) ?? [];
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
    const { images, clock, limits, hypervisor } = this.#options;
    const mine = this.list({ ownerDn: wish.ownerDn }).filter(({ state }) => state !== 'DESTROYING');
    if (mine.length >= limits.perUser)
      throw new VmError(
        'BAD_REQUEST',
        `the limit of ${limits.perUser} target systems per user is reached`,
      );
    const image = await images.find(wish.image, wish.ownerDn);
    requireNetwork(image.metadata.tsi, this.#options.network);
    const requestedMs = clock.now();
    const driver = chooseDriver(image.metadata, hypervisor.available());
    const draft: TargetSystem = {
      id: randomUUID(),
      ownerDn: wish.ownerDn,
      image: { id: image.id, metadata: image.metadata, parts: image.parts },
      parameters: chooseParameters(wish.parameters, image.metadata, driver, limits),
      driver,
      state: 'INITIALIZING',
      evidence: { source: 'user', fact: 'requested', atMs: requestedMs },
      boot: {},
      tags: wish.tags,
      ...(wish.jobId !== undefined && { jobId: wish.jobId }),
      createdMs: requestedMs,
      ...(wish.terminationMs !== undefined && { terminationMs: wish.terminationMs }),
    };
    const claimed = (await this.#spares?.claim(draft)) ?? 'no spares are kept here';
    const record =
      typeof claimed === 'string'
        ? await this.#begin(await this.#chosenTier(draft, claimed))
        : this.#adopt(claimed);
    this.#log.info(
      { vmId: record.id, imageId: image.id, dn: wish.ownerDn, start: record.start },
      'target system requested',
    );
    return record;
  }

  /** @param noSpare why it is not a spare */
  async #chosenTier(draft: TargetSystem, noSpare: string): Promise<TargetSystem> {
    const warm = (await this.#templates?.choose(draft)) ?? 'no memory of machines is saved here';
    if (typeof warm !== 'string') return warm;
    return { ...draft, start: { tier: 'cold', reason: `${noSpare}; ${warm}` } };
  }

  async #begin(record: TargetSystem): Promise<TargetSystem> {
    await this.#save(record, siteChange('created', record));
    this.#schedule(record.id);
    return record;
  }

  #adopt({ record, binding }: Claimed): TargetSystem {
    this.#records.set(record.id, record);
    this.#spares?.forget(record.id);
    this.#machines.adopt(record, binding);
    return record;
  }

  /** Changes what is not the machine's: tags, ACL, life time. */
  async update(
    id: string,
    change: { tags?: readonly string[]; acl?: readonly string[]; terminationMs?: number },
  ): Promise<TargetSystem> {
    return await this.#queue(id, async () => {
      const next = { ...this.get(id), ...change };
      await this.#save(next);
      return next;
    });
  }

  /**
   * Changes the machine itself, while it runs. The wish is stored first; what the hypervisor refuses is taken
   * back, and what it cannot be asked at present is done later.
   * @returns whether it is done
   * @throws {@link VmError} `BAD_REQUEST` naming the parameter; `HYPERVISOR_FAILED` saying why
   */
  async changeParameters(id: string, change: ParameterChange): Promise<boolean> {
    return await this.#queue(id, async () => {
      const before = this.get(id);
      if (gone.has(before.state))
        throw new VmError('BAD_REQUEST', `parameters: the machine of ${id} is gone`);
      const parameters = changeParameters(before, change, this.#options.limits);
      const names = Object.keys(change) as ChangeableName[]; // keys of the type
      const unapplied = [...new Set([...(before.unapplied ?? []), ...names])];
      await this.#save({ ...before, parameters, unapplied });
      try {
        await this.#machines.applyParameters(id);
        return true;
      } catch (error) {
        if (asGridError(error)?.row.retry === true) {
          this.#schedule(id);
          return false;
        }
        // some of it may have been done: what was there before is given again
        await this.#save({ ...before, unapplied });
        await this.#machines.reapplyParameters(id);
        throw error;
      }
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

  /**
   * Both directions of that console, also while the machine starts.
   * @throws `CONFLICT` there is no machine, or somebody else has it; `HYPERVISOR_UNAVAILABLE`
   */
  async openConsole(id: string, force: boolean): Promise<Duplex> {
    const { driver, state } = this.get(id);
    if (gone.has(state))
      throw new GridError('CONFLICT', 'the machine does not run any more', { vmId: id });
    return await this.#options.hypervisor.openConsole(driver, id, force);
  }

  find(targetId: string): Target | undefined {
    const record = this.#records.get(targetId);
    if (!record || gone.has(record.state)) return undefined;
    const { metadata } = record.image;
    const { idb } = this.#options;
    const target: Target = {
      ownerDn: record.ownerDn,
      identity: identityOf(record),
      jobsDirectory: metadata.tsi.jobsDirectory,
      ...idbSubject(record),
      tsi: () => this.#answering(targetId).tsi,
      forward: async (service, signal, loginNode) =>
        await this.#answering(targetId).forward(target.identity, service, signal, loginNode),
      loginNodes: () => this.#answering(targetId).loginNodes,
      onExit: (listener) => this.#machines.onExit(targetId, listener),
    };
    return { ...target, idb: this.#idbOf(target, idb?.bind(target)) };
  }

  /** Complete only when the batch system has told its queues for the first time. */
  #idbOf(target: Target, idb: TargetIdb | undefined): TargetIdb {
    const isUnasked = target.queues === undefined;
    return {
      current: () => idb?.current() ?? mergeIdb(target),
      isStale: () => isUnasked || idb?.isStale() === true,
      refresh: async () => {
        if (isUnasked) await this.#machines.askQueues(target.id);
        if (idb?.isStale()) await idb.refresh();
      },
    };
  }

  #answering(targetId: string): TargetBinding {
    const binding = this.#machines.binding(targetId);
    if (binding && this.get(targetId).state === 'READY') return binding;
    const text = `the TSI of target system ${targetId} is not reachable`;
    throw new GridError('TSI_UNAVAILABLE', text, { vmId: targetId });
  }

  subscribe(listener: (event: TargetEvent) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Lets go of every machine; they run on, and `start` finds them again. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#stopping.abort();
    this.#machines.stopListening();
    await this.#reaper[Symbol.asyncDispose]();
    await this.#spares?.[Symbol.asyncDispose]();
    await this.#templates?.[Symbol.asyncDispose]();
    const idle = [...this.#records.keys()].map((id) => this.#queue(id, () => Promise.resolve()));
    await Promise.allSettled(idle);
    await this.#machines[Symbol.asyncDispose]();
  }

  #evidence(source: Evidence['source'], fact: string): Evidence {
    return { source, fact, atMs: this.#options.clock.now() };
  }

  *#expired(nowMs: number): Iterable<string> {
    for (const { id, terminationMs = Infinity, state } of this.#records.values())
      if (terminationMs <= nowMs && state !== 'DESTROYING') yield id;
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
      await this.#options.store.remove(after, siteChange('deleted', after));
      this.#records.delete(id);
      this.#meter?.forget(id);
    } else {
      await this.#save(after, siteChange('state', after));
    }
    if (after.state === before.state) return;
    this.#log.info(
      { vmId: id, from: before.state, to: after.state, fact: event.evidence.fact },
      'target system changed',
    );
    this.#announce(before, after);
  }

  async #save(record: TargetSystem, change?: SiteChange): Promise<void> {
    await this.#options.store.save(record, change);
    this.#records.set(record.id, record);
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
    void this.#queue(id, () => this.#machines.reconcile(id)).catch((error: unknown) => {
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

  /** Work that nobody waits for: its failure is told here and ends nothing else. */
  #spawn(work: Promise<unknown>): void {
    work.catch((error: unknown) => this.#log.error({ err: error }, 'news of a machine were lost'));
  }
}
