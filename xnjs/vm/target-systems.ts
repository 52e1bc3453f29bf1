import { randomUUID } from 'node:crypto';
import { setMaxListeners } from 'node:events';
import type { Duplex } from 'node:stream';
import { asGridError, errorText, GridError } from '#kernel/errors.js';
import { without } from '../job/without.js';
import type { Log } from '#kernel/log.js';
import { createSerial } from '#kernel/persistence/serial.js';
import { mergeIdb, type TargetIdb } from '../idb/idb.js';
import { Reaper } from '../reaper.js';
import type { Target, TargetEvent, Targets } from '../target.js';
import type { MarkedRecord } from './domain-mark.js';
import { Machines } from './machines.js';
import { siteChange, type SiteChange } from '../changes/site-change.js';
import { changeParameters } from './parameters.js';
import { Planner } from './placement/planner.js';
import type { Quota } from './placement/quota.js';
import { connectScreen, readPng } from './screen.js';
import { isUsable, step, VmError, type VmEvent, type VmState } from './state.js';
import type { TargetBinding } from './target-binding.js';
import {
  idbSubject,
  identityOf,
  type ChangeableName,
  type Evidence,
  type ParameterChange,
  type Recovery,
  type TargetSystem,
} from './target-system.js';
import type { NewTargetSystem, TargetSystemsOptions } from './target-systems-options.js';
import type { Usage, UsageFilter, UsageOfOwner } from './usage.js';
import { SparePool, type Claimed } from './tiers/spare-pool.js';
import { Templates } from './tiers/templates.js';
import { UsageMeter } from './usage-meter.js';
import type { Views } from './views.js';

/** How long a reconciliation waits after a failure before it tries again. */
const retryMs = 1_000;
/** States whose machine is proven gone, or about to be. */
const gone: ReadonlySet<VmState> = new Set(['FAILED', 'DESTROYING', 'DESTROYED']);
/** The least that one lives on that was found again. */
const adoptedForMs = 86_400_000;
/** Of these it makes sense to say that nobody uses them. */
const endable: ReadonlySet<VmState> = new Set(['READY', 'DEGRADED']);
/** How often expired target systems are looked for. */
const reaperMs = 1_000;

/**
 * The target systems of this server and their virtual machines. Each record is changed by `step` alone,
 * one event at a time, and is stored before anything is done about it; {@link Machines} then makes the world
 * look like the record, which may be repeated at any time.
 */
export class TargetSystems implements Targets, AsyncDisposable {
  /** What users may have, and what becomes of a wish. */
  readonly planner: Planner;
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
  /** When somebody last wanted to work there. */
  readonly #usedMs = new Map<string, number>();

  constructor(options: TargetSystemsOptions) {
    this.#options = options;
    this.#log = options.log.child({ part: 'xnjs.vm' });
    this.planner = new Planner({ ...options, ...options.placement });
    const records = {
      all: () => this.#records.values(),
      find: (id: string) => this.#records.get(id),
      get: (id: string) => this.get(id),
      adopt: (record: MarkedRecord) => this.#adopt(record),
      reconcile: (id: string) => this.#reconcile(id),
      schedule: (id: string) => this.#schedule(id),
      queue: (id: string, work: () => Promise<void>) => this.#queue(id, work),
      apply: (id: string, event: VmEvent) => this.#apply(id, event),
      applyNow: (id: string, event: VmEvent) => this.#applyNow(id, event),
      save: (record: TargetSystem) => this.#save(record),
      show: (record: TargetSystem) => void this.#records.set(record.id, record),
    };
    const stopping = this.#stopping.signal;
    setMaxListeners(0, stopping); // each machine waits for something
    const { usage, hypervisor, clock, log } = options;
    const findSystem = records.find;
    this.#meter =
      usage && new UsageMeter({ ...usage, hypervisor, findSystem, clock, log, stopping });
    const isBusy = (): boolean =>
      [...this.#records.values()].some(({ state }) => state === 'INITIALIZING');
    const forPools = { ...options, isBusy, stopping, flavours: this.planner.flavours };
    this.#spares = options.spares && new SparePool({ ...forPools, spares: options.spares });
    this.#templates = options.warm && new Templates({ ...forPools, warm: options.warm });
    const pools = { spares: this.#spares, templates: this.#templates };
    const others = { stopping, meter: this.#meter, ...pools };
    this.#machines = new Machines(options, records, others);
    this.#reaper = new Reaper(
      { clock, log: this.#log, intervalMs: reaperMs },
      {
        what: 'target system',
        expired: (nowMs) => this.#expired(nowMs),
        end: (id) => this.#end(id, 'its life time is over'),
      },
      {
        what: 'unused target system',
        expired: (nowMs) => this.#unused(nowMs),
        end: (id) => this.#endUnused(id),
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

  /** When each source was last heard of it; ms since the epoch. */
  heard(id: string): Partial<Record<keyof Views, number>> {
    return this.#machines.heard(this.get(id));
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

  /** Domains of ours that belong to no target system, and that nothing is known of. */
  get orphans(): readonly string[] {
    return this.#machines.orphans;
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
   * @throws what {@link Planner.plan} does; `QUOTA_EXCEEDED`
   */
  async create(wish: NewTargetSystem): Promise<TargetSystem> {
    const requestedMs = this.#options.clock.now();
    const { image, why, quotas, ...plan } = await this.planner.plan(wish);
    const draft: TargetSystem = {
      id: randomUUID(),
      ownerDn: wish.ownerDn,
      image: { id: image.id, metadata: image.metadata, parts: image.parts },
      choice: why,
      ...plan,
      state: 'INITIALIZING',
      evidence: { source: 'user', fact: 'requested', atMs: requestedMs },
      boot: {},
      tags: wish.tags,
      ...(this.#options.recovery && { recovery: this.#options.recovery }),
      ...(wish.jobId !== undefined && { jobId: wish.jobId }),
      createdMs: requestedMs,
    };
    const claimed = (await this.#spares?.claim(draft, quotas)) ?? 'no spares are kept here';
    const record =
      typeof claimed === 'string'
        ? await this.#begin(await this.#chosenTier(draft, claimed), quotas)
        : this.#take(claimed);
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

  async #begin(record: TargetSystem, quotas: readonly Quota[]): Promise<TargetSystem> {
    await this.#save(record, siteChange('created', record), quotas);
    this.#schedule(record.id);
    return record;
  }

  #take({ record, binding }: Claimed): TargetSystem {
    this.#records.set(record.id, record);
    this.#spares?.forget(record.id);
    this.#machines.adopt(record, binding);
    return record;
  }

  /** Changes what is not the machine's: tags, ACL, life time, recovery. */
  async update(
    id: string,
    change: {
      tags?: readonly string[];
      acl?: readonly string[];
      terminationMs?: number;
      recovery?: Recovery;
    },
  ): Promise<TargetSystem> {
    return await this.#queue(id, async () => {
      const next = { ...this.get(id), ...change };
      await this.#save(next);
      void this.#machines.mark(next);
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

  /**
   * Has it parked on disk, with all that runs there, until `thaw`.
   * @throws `VM_ILLEGAL_EVENT` in such a state it cannot be; `CONFLICT` its machine cannot be, and why
   */
  async freeze(id: string, fact = 'is being parked on disk, by order'): Promise<void> {
    const { driver, views } = this.get(id);
    if (driver === 'lxc')
      throw new GridError('CONFLICT', 'containers cannot be parked on disk', { vmId: id });
    const says = views?.hypervisor?.says;
    if (says === 'hung' || says === 'silent')
      throw new GridError('CONFLICT', `it cannot be parked: ${views?.hypervisor?.fact}`, {
        vmId: id,
      });
    await this.#apply(id, { type: 'freeze', evidence: this.#evidence('user', fact) });
  }

  /** Brings back what was parked; its jobs go on. One that runs is left as it is. */
  async thaw(id: string): Promise<void> {
    this.get(id);
    const evidence = this.#evidence('user', 'is being brought back from disk');
    await this.#apply(id, { type: 'thaw', evidence });
  }

  /** What had become of the jobs of its last machine has been settled. */
  async jobsSettled(id: string): Promise<void> {
    await this.#queue(id, async () => {
      const record = this.#records.get(id);
      if (record) await this.#save(without(record, 'lostJobs'));
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

  /** The screen as it is, in PNG. @throws as {@link openScreen} */
  async screenshot(id: string): Promise<Buffer> {
    const { driver } = this.#withScreen(id);
    return await readPng(await this.#options.hypervisor.screenshot(driver, id));
  }

  /**
   * A connection to its screen, by VNC.
   * @throws `CONFLICT` it has none, does not run, or runs on a host whose sockets are not here
   */
  async openScreen(id: string): Promise<Duplex> {
    return await connectScreen(this.#options.workspace.screenSocket(this.#withScreen(id)));
  }

  #withScreen(id: string): TargetSystem {
    const system = this.get(id);
    if (gone.has(system.state))
      throw new GridError('CONFLICT', 'the machine does not run any more', { vmId: id });
    if (!system.image.metadata.display)
      throw new GridError('CONFLICT', 'the image has no screen: its metadata say no display', {
        vmId: id,
      });
    return system;
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
    this.#usedMs.set(targetId, this.#options.clock.now());
    const binding = this.#machines.binding(targetId);
    if (binding && isUsable(this.get(targetId))) return binding;
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
    for (const { id, terminationMs = Infinity, state, desired } of this.#records.values())
      if (terminationMs <= nowMs && state !== 'DESTROYING' && desired === undefined) yield id;
  }

  /** Not those that were made for a job, which end with it. */
  *#unused(nowMs: number): Iterable<string> {
    const { idle } = this.#options;
    if (!idle) return;
    for (const { id, jobId, state } of this.#records.values()) {
      if (jobId !== undefined || !endable.has(state)) continue;
      const usedMs = this.#usedMs.get(id);
      if (usedMs === undefined) this.#usedMs.set(id, nowMs);
      else if (nowMs - usedMs >= idle.afterMs) yield id;
    }
  }

  async #endUnused(id: string): Promise<void> {
    const { idle, clock } = this.#options;
    if (!idle) return;
    const fact = `nobody has used it for ${Math.round(idle.afterMs / 1_000)} s`;
    if (await idle.isBusy(id)) this.#usedMs.set(id, clock.now());
    else if (idle.action === 'freeze' && this.get(id).driver !== 'lxc') {
      this.#usedMs.delete(id);
      await this.freeze(id, `is being parked on disk: ${fact}`);
    } else await this.#end(id, fact);
  }

  async #end(id: string, fact: string): Promise<void> {
    await this.#apply(id, { type: 'destroy', evidence: this.#evidence('server', fact) });
  }

  async #adopt(record: MarkedRecord): Promise<void> {
    await this.#queue(record.id, async () => {
      if (this.#records.has(record.id)) return;
      const evidence = this.#evidence(
        'server',
        'found again: the database did not know it any more',
      );
      const { fact, atMs } = evidence;
      const { terminationMs } = record;
      const adopted: TargetSystem = {
        ...record,
        state: 'UNREACHABLE',
        ...{ evidence, views: { agent: { says: 'down', fact, sinceMs: atMs } }, boot: {} },
        // what was put off since may have been lost with the rest
        ...(terminationMs !== undefined && {
          terminationMs: Math.max(terminationMs, atMs + adoptedForMs),
        }),
      };
      // it counts again, on quotas that need not be enough
      await this.#save(adopted, siteChange('created', adopted), []);
    });
    this.#schedule(record.id);
  }

  /** Never fails: there is a next time. */
  async #reconcile(id: string): Promise<void> {
    await this.#queue(id, () => this.#machines.reconcile(id)).catch((error: unknown) => {
      this.#log.info({ vmId: id, err: errorText(error) }, 'a machine could not be reconciled');
    });
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
    if (after === before) return;
    const isNews = after.state !== before.state || after.evidence.fact !== before.evidence.fact;
    if (after.state === 'DESTROYED') {
      await this.#options.store.remove(after, siteChange('deleted', after));
      this.#records.delete(id);
      this.#meter?.forget(id);
      this.#usedMs.delete(id);
    } else {
      await this.#save(after, isNews ? siteChange('state', after) : undefined);
    }
    if (!isNews) return;
    this.#log.info(
      { vmId: id, from: before.state, to: after.state, fact: event.evidence.fact },
      'target system changed',
    );
    this.#announce(before, after);
  }

  /** @param quotas of a record that is new to the database */
  async #save(record: TargetSystem, change?: SiteChange, quotas?: readonly Quota[]): Promise<void> {
    await this.#options.store.save(record, change, quotas);
    this.#records.set(record.id, record);
  }

  #announce(before: TargetSystem, after: TargetSystem): void {
    const event: TargetEvent | undefined =
      isUsable(after) && !isUsable(before)
        ? { type: 'ready', targetId: after.id }
        : after.generation !== before.generation
          ? { type: 'replaced', targetId: after.id }
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
