import { randomUUID } from 'node:crypto';
import { asGridError, errorText, GridError } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import { siteChange } from '../../changes/site-change.js';
import { nameOf } from '../choose-image.js';
import { isRequiredBy } from '../context/enrollees.js';
import type { Enrollee, EnrolmentRecord } from '../context/enrolments.js';
import { createBinding } from '../create-binding.js';
import { isLocal, localHost } from '../hosts/host.js';
import type { DomainView, Hypervisor } from '../hypervisor.js';
import { chooseDriver, chooseParameters } from '../parameters.js';
import type { Flavours } from '../placement/flavours.js';
import type { Quota } from '../placement/quota.js';
import { plainUser } from '../placement/requester.js';
import { controlNames } from '../resource-controls.js';
import type { SystemRecords } from '../system-records.js';
import type { TargetBinding } from '../target-binding.js';
import type { TargetSystem } from '../target-system.js';
import type { TargetSystemsOptions } from '../target-systems-options.js';
import { awaitAgent } from './await-agent.js';
import type { SparesConfig } from './config.js';
import { newIdentity } from './identity.js';
import { differenceFrom, isSameImage, specOf } from './same-machine.js';
import type { Spare, SpareStore } from './spare.js';
import { startDomain } from './start-domain.js';
import { Upkeep } from './upkeep.js';
import { WantedImages, type Wanted } from './wanted-images.js';

export type SparePoolOptions = TargetSystemsOptions & {
  readonly spares: NonNullable<TargetSystemsOptions['spares']>;
  readonly records: Pick<SystemRecords, 'queue' | 'show'>;
  /** Whether a machine of a user is being started at present. */
  readonly isBusy: () => boolean;
  readonly flavours: Flavours;
  readonly stopping: AbortSignal;
};

export type SparesOptions = {
  readonly store: SpareStore;
  readonly config: SparesConfig;
  /** What the host could give to machines. */
  readonly availableMiB: () => number;
};

/** A spare whose agent has been silent for so long is replaced: nobody waits for it. */
const lostAfterMs = 20_000;

/**
 * `unsure`: a server before us had it. `taken`: it is becoming a target system, or a database has not
 * told whether it has; the next start tells.
 */
type Phase = 'unsure' | 'starting' | 'ready' | 'taken' | 'going';
type Held = {
  spare: Spare;
  readonly gone: AbortController;
  phase: Phase;
  isUp: boolean;
  /** Since when its agent has not answered; ms since the epoch. */
  silentMs?: number | undefined;
  binding?: TargetBinding;
  /** Resolves when its domain runs, or could not be started. */
  making?: Promise<unknown>;
};

/** A spare that became a target system. */
export type Claimed = {
  readonly record: TargetSystem;
  /** The link to its agent. */
  readonly binding: TargetBinding;
  /** Resolves when it has got the identity that it was sent meanwhile. */
  readonly becoming: Promise<void>;
};

/**
 * Machines that run and are nobody's, for users who would wait for a boot (ADR 035). Each is a durable
 * record before it is a domain; it becomes a target system by one transaction and never comes back. They
 * live on what users leave: whatever a user needs, they give.
 */
export class SparePool implements AsyncDisposable {
  readonly #options: SparePoolOptions;
  readonly #log: Log;
  readonly #held = new Map<string, Held>();
  readonly #images: WantedImages;
  readonly #upkeep: Upkeep;
  readonly #unsubscribe: (() => void)[] = [];
  #wanted: readonly Wanted[] = [];

  constructor(options: SparePoolOptions) {
    this.#options = options;
    this.#log = options.log.child({ part: 'xnjs.vm.spares' });
    const { images, clock, spares } = options;
    this.#images = new WantedImages({ images, clock, log: this.#log, ...spares });
    this.#upkeep = new Upkeep({ ...options, log: this.#log, turn: () => this.#turn() });
  }

  /** All spares are on the host of the server. */
  get #local(): Hypervisor {
    return this.#options.hosts.of({ host: localHost });
  }

  /** Before hypervisors are compared with the records. */
  async load(): Promise<void> {
    for (const spare of await this.#options.spares.store.all()) this.#hold(spare, 'unsure');
  }

  start(): void {
    this.#unsubscribe.push(this.#local.onDomain((domain) => this.#onDomain(domain)));
    this.#upkeep.start();
  }

  /** Whether a domain is a spare, or on its way from or to being one. */
  has(id: string): boolean {
    return this.#held.has(id);
  }

  /** For the operator. */
  get counts(): { readonly ready: number; readonly all: number } {
    const all = [...this.#held.values()];
    return { ready: all.filter(isFree).length, all: all.length };
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
    const { image, ownerDn, driver } = draft;
    this.#images.note(image.id, ownerDn);
    if (draft.volumes) return 'spares have no volumes';
    if (!isLocal(draft)) return 'spares are kept on the host of the server only';
    const sameImage = [...this.#held.values()].filter(
      ({ spare, phase }) => isSameImage(spare.image, image) && phase !== 'taken',
    );
    if (sameImage.length === 0) return 'no spare of this image is kept';
    const free = sameImage.filter((held) => isFree(held) && held.spare.driver === driver);
    if (free.length === 0) return 'no spare of this image is free';
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
   * A user's machine is about to be started: spares that are still starting leave it the processors, others
   * their memory.
   */
  async makeRoom(memoryMiB: number): Promise<void> {
    const { spares } = this.#options;
    this.#upkeep.yield();
    const { reserveMiB } = spares.config;
    const starting = [...this.#held.values()].filter(({ phase }) => phase === 'starting');
    for (const held of starting) this.#spawn(this.#discard(held, 'a user starts a machine'));
    for (const held of this.#held.values()) {
      if (spares.availableMiB() >= memoryMiB + reserveMiB) return;
      if (held.phase === 'ready') await this.#discard(held, 'a user needs its memory');
    }
  }

  /** Lets go of every spare; they run on, and `load` finds them again. */
  async [Symbol.asyncDispose](): Promise<void> {
    for (const end of this.#unsubscribe.splice(0)) end();
    for (const { gone } of this.#held.values()) gone.abort(new Error('the server stops'));
    await this.#upkeep[Symbol.asyncDispose]();
    await Promise.allSettled(
      [...this.#held.values()]
        .filter(({ phase }) => phase !== 'taken')
        .map(async ({ binding }) => await binding?.[Symbol.asyncDispose]()),
    );
  }

  async #turn(): Promise<void> {
    for (const held of this.#held.values())
      if (held.phase === 'going') await this.#discard(held, 'once more');
      else if (held.phase === 'unsure') await this.#recover(held);
      else if (this.#isLost(held)) await this.#discard(held, 'its agent does not answer');
    this.#wanted = await this.#images.list();
    await this.#dropSurplus();
    for (const { image, callerDn, count } of this.#wanted)
      while (this.#of(image).length < count) {
        const spare = this.#newSpare(image, callerDn);
        if (this.#upkeep.isStopping || !spare || this.#isCrowded(spare)) return;
        await this.#make(spare);
      }
  }

  /** It keeps another from being made; of a host that does not answer nothing is known. */
  #isLost({ phase, silentMs, spare }: Held): boolean {
    const { hosts, clock } = this.#options;
    if (phase !== 'ready' || silentMs === undefined) return false;
    return clock.now() - silentMs >= lostAfterMs && hosts.isUp(spare);
  }

  #of(image: Spare['image']): Held[] {
    return [...this.#held.values()].filter(
      ({ spare, phase }) =>
        isSameImage(spare.image, image) && phase !== 'taken' && phase !== 'going',
    );
  }

  #newSpare(image: Spare['image'], callerDn: string): Spare | undefined {
    const { clock, hosts, flavours } = this.#options;
    if (hosts.isLocalDrained || this.#upkeep.isUnfit(image.id)) return undefined;
    const { metadata } = image;
    const driver = chooseDriver(metadata, hosts.localDrivers());
    const parameters = chooseParameters({}, image, driver, flavours.boundsFor(plainUser));
    const machine = { id: randomUUID(), image, driver, parameters, host: localHost };
    return { ...machine, callerDn, createdMs: clock.now() };
  }

  /** Whether one more would take room that users might want. */
  #isCrowded({ parameters }: Spare): boolean {
    const { spares } = this.#options;
    const { maxMachines, maxMemoryMiB, reserveMiB } = spares.config;
    const mine = [...this.#held.values()].filter(({ phase }) => phase !== 'taken');
    const used = mine.reduce((sum, { spare }) => sum + spare.parameters.memoryMiB, 0);
    return (
      this.#upkeep.isCrowded ||
      mine.length >= maxMachines ||
      used + parameters.memoryMiB > maxMemoryMiB ||
      spares.availableMiB() < parameters.memoryMiB + reserveMiB
    );
  }

  /** Of images that are not wanted any more, or are others now under the same name. */
  async #dropSurplus(): Promise<void> {
    for (const { spare } of this.#held.values()) {
      const wanted = this.#wanted.find(({ image }) => isSameImage(image, spare.image));
      const others = this.#of(spare.image);
      const surplus = others.slice(wanted?.count ?? 0);
      for (const held of surplus) await this.#discard(held, 'it is not wanted any more');
    }
  }

  async #make(spare: Spare): Promise<void> {
    const { spares } = this.#options;
    const startedMs = performance.now();
    await spares.store.save(spare);
    const held = this.#hold(spare, 'starting');
    const about = { vmId: spare.id, imageId: spare.image.id };
    try {
      held.making = startDomain(specOf(spare), spare.callerDn, this.#options);
      await held.making;
      await this.#bind(held);
      const ms = Math.round(performance.now() - startedMs);
      this.#log.info({ ...about, ms }, 'a spare machine is ready');
    } catch (error) {
      if (this.#upkeep.isStopping) return;
      if (!held.gone.signal.aborted) {
        this.#upkeep.leaveAlone(spare.image.id);
        this.#log.warn({ ...about, err: error }, 'a spare machine did not come to be');
      }
      await this.#discard(held, 'it did not come to be');
    }
  }

  /** What a server before us has left: it is a spare still if it runs and its agent answers. */
  async #recover(held: Held): Promise<void> {
    const { hosts } = this.#options;
    const { driver, id } = held.spare;
    if (!hosts.isUp(held.spare)) return; // nothing is known of it
    const domain = await this.#local.find(driver, id);
    held.phase = 'starting';
    try {
      if (domain?.state !== 'running') throw new Error('it does not run');
      await this.#bind(held);
      this.#log.info({ vmId: id }, 'a spare machine was found again');
    } catch (error) {
      if (!this.#upkeep.isStopping) await this.#discard(held, errorText(error));
    }
  }

  /** Resolves when its agent has answered, and can make its machine another one. */
  async #bind(held: Held): Promise<void> {
    const { bootTimeoutMs, clock } = this.#options;
    held.gone.signal.throwIfAborted();
    const binding = createBinding(held.spare, this.#options);
    held.binding = binding;
    binding.onChange((isUp) => {
      held.isUp = isUp;
      held.silentMs = isUp ? undefined : clock.now();
    });
    const facts = await awaitAgent(binding, clock, bootTimeoutMs, held.gone.signal);
    if (facts?.identity !== true || !binding.assume)
      throw new Error('its agent cannot make its machine another one');
    const how = { isCopy: false, isRehearsal: true };
    await binding.assume(newIdentity(held.spare, clock.now(), how));
    held.gone.signal.throwIfAborted();
    held.phase = 'ready';
  }

  #hold(spare: Spare, phase: Phase): Held {
    const held: Held = { spare, phase, isUp: false, gone: new AbortController() };
    this.#held.set(spare.id, held);
    return held;
  }

  #onDomain({ id, state, reason }: DomainView): void {
    const held = this.#held.get(id);
    if (held && state === 'stopped' && ['starting', 'ready'].includes(held.phase))
      this.#spawn(this.#discard(held, reason));
  }

  /** May be repeated. The record goes last: what is left of a spare is found by it. */
  async #discard(held: Held, why: string): Promise<void> {
    if (held.phase === 'taken') return;
    const { workspace, spares, lease, records } = this.#options;
    const { id, driver } = held.spare;
    const isNews = held.phase !== 'going';
    held.phase = 'going';
    held.gone.abort(new Error(why));
    if (isNews) this.#log.info({ vmId: id, reason: why }, 'a spare machine is removed');
    await held.binding?.[Symbol.asyncDispose]();
    // what is still being made would be made after it was removed
    await held.making?.catch(() => undefined);
    await lease?.require();
    await this.#local.remove(driver, id);
    await workspace.remove(id);
    await records.queue(id, () => spares.store.remove(id));
    this.#held.delete(id);
  }

  #spawn(work: Promise<unknown>): void {
    work.catch((error: unknown) =>
      this.#log.warn({ err: error }, 'a spare machine could not be removed, trying again'),
    );
  }
}

function isFree({ phase, isUp }: Held): boolean {
  return phase === 'ready' && isUp;
}

/** What a spare is from then on. */
function claimedBy(draft: TargetSystem, spare: Spare, nowMs: number): TargetSystem {
  const unapplied = controlNames.filter(
    (name) => draft.parameters[name] !== spare.parameters[name],
  );
  const reason = `a machine of ${nameOf(draft.image)} was running, and free`;
  return {
    ...draft,
    id: spare.id,
    start: { tier: 'spare', reason },
    boot: { claimedMs: nowMs - draft.createdMs },
    ...(spare.enrolment && { enrolment: spare.enrolment }),
    ...(unapplied.length > 0 && { unapplied }),
  };
}
