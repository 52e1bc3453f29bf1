import { asGridError, errorText, GridError } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import { siteChange } from '../../changes/site-change.js';
import { isRequiredBy } from '../context/enrollees.js';
import type { Enrollee, EnrolmentRecord } from '../context/enrolments.js';
import { FilesOfMachines } from '../files-of-machines.js';
import type { HostPlacement, Placed } from '../hosts/host-placement.js';
import { whereText } from '../hosts/hosts.js';
import type { DomainView } from '../hypervisor.js';
import type { Flavours } from '../placement/flavours.js';
import type { Quota } from '../placement/quota.js';
import type { SystemRecords } from '../system-records.js';
import type { TargetBinding } from '../target-binding.js';
import type { TargetSystem } from '../target-system.js';
import type { TargetSystemsOptions } from '../target-systems-options.js';
import type { SparesConfig } from './config.js';
import { claimedBy, isFree, type Claimed, type Held, type Phase } from './held-spare.js';
import { newIdentity } from './identity.js';
import { bindSpare, bootSpare } from './make-spare.js';
import { differenceFrom, isSameImage } from './same-machine.js';
import type { Spare, SpareStore } from './spare.js';
import { SparePlaces } from './spare-places.js';
import { Upkeep } from './upkeep.js';
import { WantedImages, type Wanted } from './wanted-images.js';

export type SparePoolOptions = TargetSystemsOptions & {
  readonly spares: NonNullable<TargetSystemsOptions['spares']>;
  readonly records: Pick<SystemRecords, 'queue' | 'show'>;
  readonly places: Pick<HostPlacement, 'vacancy' | 'freeMiB'>;
  /** Whether a machine of a user is being started at present on that host. */
  readonly isBusy: (host: string) => boolean;
  readonly flavours: Flavours;
  readonly stopping: AbortSignal;
};

export type SparesOptions = {
  readonly store: SpareStore;
  readonly config: SparesConfig;
  /** What the host of this server could give to machines; of others counts what users' machines leave. */
  readonly availableMiB: () => number;
};

/** A spare whose agent has been silent for so long is replaced: nobody waits for it. */
const lostAfterMs = 20_000;

/**
 * Machines that run and are nobody's, for users who would wait for a boot (ADR 035). Each is a durable
 * record before it is a domain; it becomes a target system by one transaction and never comes back. They
 * live on what users leave: whatever a user needs, they give. Their number is that of all hosts together; each
 * host has turns of its own, so that one that hangs holds up no other (ADR 042).
 */
export class SparePool implements AsyncDisposable {
  readonly #options: SparePoolOptions;
  readonly #log: Log;
  readonly #held = new Map<string, Held>();
  readonly #images: WantedImages;
  readonly #files: FilesOfMachines;
  readonly #places: SparePlaces;
  /** By host. */
  readonly #upkeeps: ReadonlyMap<string, Upkeep>;
  readonly #unsubscribe: (() => void)[] = [];

  constructor(options: SparePoolOptions) {
    this.#options = options;
    this.#log = options.log.child({ part: 'xnjs.vm.spares' });
    const { images, clock, spares } = options;
    this.#images = new WantedImages({ images, clock, log: this.#log, ...spares });
    this.#files = new FilesOfMachines(options);
    const upkeepOf = (host: string): Upkeep =>
      new Upkeep({
        ...{ ...options, log: this.#log, turn: () => this.#turn(host) },
        isBusy: () => options.isBusy(host),
      });
    const upkeeps = new Map(options.hosts.all.map(({ name }) => [name, upkeepOf(name)]));
    this.#upkeeps = upkeeps;
    this.#places = new SparePlaces({ ...options, upkeeps, held: () => [...this.#held.values()] });
  }

  /** Before hypervisors are compared with the records. */
  async load(): Promise<void> {
    for (const spare of await this.#options.spares.store.all()) this.#hold(spare, 'unsure');
  }

  start(): void {
    for (const { name, hypervisor } of this.#options.hosts.all)
      this.#unsubscribe.push(hypervisor.onDomain((domain) => this.#onDomain(domain, name)));
    for (const upkeep of this.#upkeeps.values()) upkeep.start();
  }

  /** Whether a domain is a spare, or on its way from or to being one. */
  has(id: string): boolean {
    return this.#held.has(id);
  }

  /** Whether there is one on that host that such a machine can become. */
  canServe(host: string, { image, parameters, volumes }: Placed): boolean {
    const { parts } = image;
    if (volumes || !parts) return false;
    return [...this.#held.values()].some(
      (held) =>
        this.#isFree(held) &&
        held.spare.host === host &&
        isSameImage(held.spare.image, { ...image, parts }) &&
        differenceFrom(held.spare, { parameters }) === undefined,
    );
  }

  /** For the operator. */
  countsOn(host: string): { readonly ready: number; readonly all: number } {
    const all = this.#on(host);
    return { ready: all.filter((held) => this.#isFree(held)).length, all: all.length };
  }

  #isFree(held: Held): boolean {
    return isFree(held) && this.#options.hosts.isUp(held.spare);
  }

  /** As what it proves itself. */
  enrollee(id: string): Enrollee | undefined {
    const held = this.#held.get(id);
    if (!held) return undefined;
    const { callerDn, enrolment, image } = held.spare;
    const isRequired = isRequiredBy(image);
    const known = { ...{ id, isRequired, isToChange: false }, ...(enrolment && { enrolment }) };
    return { ...known, dn: callerDn, means: 'message' };
  }

  /** Only from inside its queue. @throws `CONFLICT` it is about to be no spare any more */
  async saveEnrolment(id: string, enrolment: EnrolmentRecord): Promise<void> {
    const held = this.#held.get(id);
    if (!held || held.phase === 'taken' || held.phase === 'going')
      throw new GridError('CONFLICT', 'the spare machine is gone');
    const spare = { ...held.spare, enrolment };
    await this.#options.spares.store.save(spare);
    held.spare = spare;
  }

  /**
   * Makes a spare this target system, durably, if there is one that fits.
   * @param draft as it would be stored; it gets the id of the spare
   * @returns the reason, where there is none
   * @throws what the database does: then nobody has the spare
   */
  async claim(draft: TargetSystem, quotas: readonly Quota[]): Promise<Claimed | string> {
    const { image, ownerDn, driver, host } = draft;
    this.#images.note(image.id, ownerDn);
    if (draft.volumes) return 'spares have no volumes';
    const sameImage = [...this.#held.values()].filter(
      ({ spare, phase }) => isSameImage(spare.image, image) && phase !== 'taken',
    );
    if (sameImage.length === 0) return 'no spare of this image is kept';
    const free = sameImage.filter(
      (held) => this.#isFree(held) && held.spare.driver === driver && held.spare.host === host,
    );
    if (free.length === 0)
      return `${whereText(this.#options.hosts, draft)}no spare of this image is free`;
    const fits = free.find(({ spare }) => differenceFrom(spare, draft) === undefined);
    if (!fits?.binding)
      return `${free[0] ? differenceFrom(free[0].spare, draft) : ''} of the spares`;
    return await this.#take(fits, fits.binding, draft, quotas);
  }

  /** What nobody has used yet may get its identity before it is known whose it is, and again if it stays a spare. */
  async #take(
    held: Held,
    binding: TargetBinding,
    draft: TargetSystem,
    quotas: readonly Quota[],
  ): Promise<Claimed> {
    held.phase = 'taken';
    const { clock, spares, records } = this.#options;
    const { id } = held.spare;
    const becoming = this.#become(binding, id);
    const record = await records.queue(id, async () => {
      const claimed = claimedBy(draft, held.spare, clock.now());
      try {
        await spares.store.claim(claimed, siteChange('created', claimed), quotas);
      } catch (error) {
        const code = asGridError(error)?.code;
        if (code === 'QUOTA_EXCEEDED') held.phase = 'ready';
        else if (code === 'CONFLICT') held.phase = 'going';
        throw error; // else it may have become a target system: the next start tells
      }
      records.show(claimed);
      this.#held.delete(id);
      return claimed;
    });
    return { record, binding, becoming };
  }

  /** Whoever needs the result hears of a failure; where nobody does, it is none. */
  #become(binding: TargetBinding, id: string): Promise<void> {
    const { clock } = this.#options;
    const identity = newIdentity({ id }, clock.now(), { isCopy: false });
    const becoming = binding.assume?.(identity) ?? Promise.reject(new Error('its TSI cannot'));
    becoming.catch(() => undefined);
    return becoming;
  }

  /**
   * A user's machine is about to be started: spares of its host that are still starting leave it the processors,
   * others their memory.
   */
  async makeRoom({
    host,
    parameters: { memoryMiB },
  }: Pick<TargetSystem, 'host' | 'parameters'>): Promise<void> {
    this.#upkeeps.get(host)?.yield();
    const here = this.#on(host);
    for (const held of here.filter(({ phase }) => phase === 'starting'))
      this.#spawn(this.#discard(held, 'a user starts a machine'));
    for (const held of here) {
      if (this.#places.freeMiB(held.spare, memoryMiB) >= this.#options.spares.config.reserveMiB)
        return;
      if (held.phase === 'ready') await this.#discard(held, 'a user needs its memory');
    }
  }

  /** A user's image finds no room on a host: those whose images are in its way go. @returns whether some did */
  async giveUpImages(host: string): Promise<boolean> {
    const ready = this.#on(host).filter(({ phase }) => phase === 'ready');
    for (const held of ready) await this.#discard(held, 'a user needs the room of its image');
    return ready.length > 0;
  }

  /** All of them, whatever becomes of them. */
  machines(): readonly Spare[] {
    return [...this.#held.values()].map(({ spare }) => spare);
  }

  /** Lets go of every spare; they run on, and `load` finds them again. */
  async [Symbol.asyncDispose](): Promise<void> {
    for (const end of this.#unsubscribe.splice(0)) end();
    for (const { gone } of this.#held.values()) gone.abort(new Error('the server stops'));
    await Promise.all([...this.#upkeeps.values()].map((each) => each[Symbol.asyncDispose]()));
    await Promise.allSettled(
      [...this.#held.values()]
        .filter(({ phase }) => phase !== 'taken')
        .map(async ({ binding }) => await binding?.[Symbol.asyncDispose]()),
    );
  }

  /** One host's; what is not to be reached stays as it is. */
  async #turn(host: string): Promise<void> {
    const { hosts } = this.#options;
    for (const held of this.#held.values())
      if (hosts.isLost(held.spare)) await this.#discard(held, 'its host was declared lost');
    for (const held of this.#on(host))
      if (!hosts.isUp(held.spare)) continue;
      else if (held.phase === 'going') await this.#discard(held, 'once more');
      else if (held.phase === 'unsure') await this.#recover(held);
      else if (this.#isLost(held)) await this.#discard(held, 'its agent does not answer');
      else if (hosts.isDrainedAt({ host })) await this.#discard(held, 'its host is drained');
    const wanted = await this.#images.list();
    await this.#dropSurplus(host, wanted);
    for (const { image, callerDn, count } of wanted)
      while (this.#places.reachable(image).length < count) {
        const next = this.#places.next(image, callerDn);
        if (next?.host !== host || this.#isStopping) break;
        await this.#make(next);
      }
  }

  get #isStopping(): boolean {
    return this.#options.stopping.aborted;
  }

  /** It keeps another from being made. */
  #isLost({ phase, silentMs }: Held): boolean {
    if (phase !== 'ready' || silentMs === undefined) return false;
    return this.#options.clock.now() - silentMs >= lostAfterMs;
  }

  #on(host: string): Held[] {
    return [...this.#held.values()].filter(({ spare }) => spare.host === host);
  }

  /** Of images that are not wanted any more, or are others now under the same name. */
  async #dropSurplus(host: string, wanted: readonly Wanted[]): Promise<void> {
    for (const { spare } of this.#on(host)) {
      const { count = 0 } = wanted.find(({ image }) => isSameImage(image, spare.image)) ?? {};
      for (const held of this.#places.surplus(spare.image, count))
        if (held.spare.host === host) await this.#discard(held, 'it is not wanted any more');
    }
  }

  async #make(draft: Spare): Promise<void> {
    const startedMs = performance.now();
    const held = this.#hold(draft, 'starting');
    const about = { vmId: draft.id, imageId: draft.image.id, host: draft.host };
    try {
      held.making = bootSpare(held, this.#options.spares.store, this.#options);
      await held.making;
      await bindSpare(held, this.#options);
      const ms = Math.round(performance.now() - startedMs);
      this.#log.info({ ...about, ms }, 'a spare machine is ready');
    } catch (error) {
      if (this.#isStopping) return;
      const { hosts } = this.#options;
      // else it is its host that was lost, which says nothing of the image
      if (!held.gone.signal.aborted && hosts.isUp(draft)) {
        this.#upkeeps.get(draft.host)?.leaveAlone(draft.image.id);
        this.#log.warn({ ...about, err: error }, 'a spare machine did not come to be');
      }
      await this.#discard(held, 'it did not come to be');
    }
  }

  /** What a server before us has left: it is a spare still if it runs and its agent answers. */
  async #recover(held: Held): Promise<void> {
    const { driver, id } = held.spare;
    const domain = await this.#options.hosts.of(held.spare).find(driver, id);
    held.phase = 'starting';
    try {
      if (domain?.state !== 'running') throw new Error('it does not run');
      await bindSpare(held, this.#options);
      this.#log.info({ vmId: id }, 'a spare machine was found again');
    } catch (error) {
      if (!this.#isStopping) await this.#discard(held, errorText(error));
    }
  }

  #hold(spare: Spare, phase: Phase): Held {
    const held: Held = { spare, phase, isUp: false, gone: new AbortController() };
    this.#held.set(spare.id, held);
    return held;
  }

  #onDomain({ id, state, reason }: DomainView, host: string): void {
    const held = this.#held.get(id);
    if (
      held?.spare.host === host &&
      state === 'stopped' &&
      ['starting', 'ready'].includes(held.phase)
    )
      this.#spawn(this.#discard(held, reason));
  }

  /** May be repeated. The record goes last: what is left of a spare is found by it. */
  async #discard(held: Held, why: string): Promise<void> {
    if (held.phase === 'taken') return;
    const { hosts, spares, lease, records } = this.#options;
    const { id, driver } = held.spare;
    const isNews = held.phase !== 'going';
    held.phase = 'going';
    held.gone.abort(new Error(why));
    if (isNews) this.#log.info({ vmId: id, reason: why }, 'a spare machine is removed');
    await held.binding?.[Symbol.asyncDispose]();
    // what is still being made would be made after it was removed
    await held.making?.catch(() => undefined);
    await lease?.require();
    const wasLost = hosts.isLost(held.spare);
    if (!wasLost) await hosts.of(held.spare).remove(driver, id);
    await this.#files.remove(held.spare);
    await records.queue(id, () => spares.store.remove(id, wasLost));
    this.#held.delete(id);
  }

  #spawn(work: Promise<unknown>): void {
    work.catch((error: unknown) =>
      this.#log.warn({ err: error }, 'a spare machine could not be removed, trying again'),
    );
  }
}
