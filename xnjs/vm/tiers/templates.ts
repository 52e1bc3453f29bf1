import { randomUUID } from 'node:crypto';
import { asGridError, errorText } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import { nameOf } from '../choose-image.js';
import { domainXml } from '../domain-xml.js';
import { driverAbilities } from '../hosts/driver-abilities.js';
import { isLocal, type Seat } from '../hosts/host.js';
import type { HostPlacement, Placed } from '../hosts/host-placement.js';
import { whereText } from '../hosts/hosts.js';
import type { Flavours } from '../placement/flavours.js';
import { controlNames } from '../resource-controls.js';
import type { MachineSpec, TargetSystem } from '../target-system.js';
import type { TargetSystemsOptions } from '../target-systems-options.js';
import { captureMemory } from './capture.js';
import type { WarmConfig } from './config.js';
import { copyable, fetchParts } from './image-files.js';
import { isSaved, KeptMemory } from './kept-memory.js';
import { Kinds, placeOf } from './kinds.js';
import { MemoryWishes, wishKey, type Unsaved } from './memory-wishes.js';
import { differenceFrom } from './same-machine.js';
import { prepareFiles } from './start-domain.js';
import { isCopyable, type Template, type TemplateStore } from './template.js';
import { Upkeep } from './upkeep.js';

export type TemplatesOptions = TargetSystemsOptions & {
  readonly warm: NonNullable<TargetSystemsOptions['warm']>;
  readonly places: Pick<HostPlacement, 'vacancy' | 'freeMiB'>;
  /** Whether a machine of a user is being started at present. */
  readonly isBusy: (host: string) => boolean;
  readonly flavours: Flavours;
  readonly stopping: AbortSignal;
};

export type WarmOptions = {
  readonly store: TemplateStore;
  readonly config: WarmConfig;
  /** What the host of this server could give; of others counts what users' machines leave. */
  readonly availableMiB: () => number;
};

/**
 * Saved memory of booted machines, from which others are restored (ADR 035), on all hosts that get at it and are like
 * that which it was taken on (ADR 042). Taken from a machine that is booted for that and was nobody's: of images that
 * are hot when they are published, of others after their first cold start.
 */
export class Templates implements AsyncDisposable {
  readonly #options: TemplatesOptions;
  readonly #log: Log;
  readonly #kinds: Kinds;
  readonly #kept: KeptMemory;
  readonly #wishes: MemoryWishes;
  /** By host: each has turns of its own, so that one that hangs holds up no other. */
  readonly #upkeeps: ReadonlyMap<string, Upkeep>;
  readonly #unsubscribe: (() => void)[] = [];
  /** By host. */
  readonly #captures = new Map<string, { readonly id: string; readonly end: AbortController }>();
  /** Wishes that a host has taken upon itself, whose records are not there yet. */
  readonly #beginning = new Set<string>();

  constructor(options: TemplatesOptions) {
    this.#options = options;
    this.#log = options.log.child({ part: 'xnjs.vm.templates' });
    this.#kinds = new Kinds(options.hosts);
    const kinds = this.#kinds;
    this.#kept = new KeptMemory({ ...options, kinds });
    this.#wishes = new MemoryWishes({ ...options, log: this.#log, kinds, kept: this.#kept });
    const upkeepOf = (host: string): Upkeep =>
      new Upkeep({
        ...{ ...options, log: this.#log, turn: () => this.#turn(host) },
        isBusy: () => options.isBusy(host),
      });
    this.#upkeeps = new Map(options.hosts.all.map(({ name }) => [name, upkeepOf(name)]));
  }

  /** Before hypervisors are compared with the records. */
  async load(): Promise<void> {
    await this.#kept.load();
  }

  start(): void {
    this.#unsubscribe.push(this.#kinds.follow());
    for (const upkeep of this.#upkeeps.values()) upkeep.start();
  }

  /** Whether a domain is of ours. */
  has(id: string): boolean {
    return this.#kept.has(id);
  }

  /** Of what is saved, and of what is about to be. */
  all(): readonly Template[] {
    return this.#kept.all();
  }

  /** Those that are booted for that at present. */
  *machines(): Iterable<MachineSpec> {
    for (const { id } of this.#captures.values()) {
      const template = this.#kept.find(id);
      if (template) yield template;
    }
  }

  /** Whether such a machine can be restored on that host, as far as is known. */
  canServe(host: string, { image, parameters, volumes }: Placed): boolean {
    const { parts, ...rest } = image;
    if (!parts || this.#options.warm.config.maxImages === 0) return false;
    const machine = { image: { ...rest, parts }, parameters, ...(volumes && { volumes }) };
    return this.#options.hosts.driversUp({ host }).some((driver) => {
      const wanted = { ...machine, driver, host };
      if (isCopyable(wanted) !== true || !this.#hasImage(wanted)) return false;
      const all = this.#kept.savedFor(wanted).filter((each) => this.#kinds.fits(each, wanted));
      return all.some((each) => differenceFrom(each, wanted) === undefined);
    });
  }

  /**
   * Makes a start warm, if there is memory that fits. It gets the id that a copy of it has already.
   * @returns the reason, where there is none; then it is remembered that there should be
   */
  async choose(draft: TargetSystem): Promise<TargetSystem | string> {
    const { image } = draft;
    if (this.#options.warm.config.maxImages === 0) return 'no memory of machines is saved here';
    const copyable = isCopyable(draft);
    if (copyable !== true) return copyable;
    const where = whereText(this.#options.hosts, draft);
    // of what is not known no memory is restored
    await this.#kinds.learn(draft).catch(() => undefined);
    const saved = this.#kept.savedFor(draft);
    const current = saved.filter((each) => this.#kinds.fits(each, draft));
    const [first] = current;
    if (!first) {
      this.#wishes.add(draft);
      return saved.length === 0
        ? `${where}no memory of a machine of this image is saved`
        : `${where}the saved memory is of another hypervisor or processor`;
    }
    const fits = current.find((each) => differenceFrom(each, draft) === undefined);
    if (!fits) return `${differenceFrom(first, draft) ?? 'its size'} of the saved memory`;
    if (!this.#hasImage(draft)) return `${where}memory is saved, but the image is not there`;
    const unapplied = controlNames.filter(
      (name) => draft.parameters[name] !== fits.parameters[name],
    );
    this.#kept.use(fits.id);
    const id = this.#kept.copies.take(fits.id) ?? draft.id;
    const enrolment = this.#options.enrolments?.issueForChannel({ ...draft, id });
    return {
      ...{ ...draft, id },
      ...(enrolment && { enrolment }),
      start: { tier: 'warm', reason: `memory of ${nameOf(image)} was saved` },
      template: fits.id,
      ...(unapplied.length > 0 && { unapplied }),
    };
  }

  /** Else a machine cannot be restored there: what it was booted from is looked for then, too. */
  #hasImage(machine: Pick<MachineSpec, 'host' | 'image'>): boolean {
    return this.#options.hosts.storageOf(machine)?.hasImage(machine.image) ?? true;
  }

  /** Restores a machine from the memory that was chosen for it. @throws if any of it fails */
  async restore(record: TargetSystem): Promise<{ definedMs: number }> {
    const { hosts, installationId, lease } = this.#options;
    const template = this.#kept.find(record.template ?? '');
    if (!template || !isSaved(template)) throw new Error('the saved memory is gone');
    const { driver, id } = record;
    const parts = await fetchParts(record, record.ownerDn, this.#options);
    const storage = hosts.storageOf(record);
    const files = storage && (await copyable(record, parts, this.#options));
    if (files && (await storage.missing(files)).length > 0)
      throw new Error('its image is not there any more');
    const paths = await prepareFiles(record, parts, this.#options);
    try {
      return await this.#kept.copies.use(template, id, async (from) => {
        const placed = { ...record, sharedCores: hosts.sharedCores(record) };
        const xml = domainXml(placed, paths, installationId, undefined, lease?.epoch);
        return await hosts.of(record).restoreMemory(driver, id, { ...from, xml });
      });
    } catch (error) {
      if (asGridError(error)?.row.retry !== true) this.#kept.spoil(template.id);
      throw error;
    }
  }

  /** A user's machine is about to be started: what is being saved on its host can wait. */
  yield(host: string): void {
    this.#upkeeps.get(host)?.yield();
    this.#captures.get(host)?.end.abort(new Error('a user starts a machine'));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const end of this.#unsubscribe.splice(0)) end();
    for (const { end } of this.#captures.values()) end.abort(new Error('the server stops'));
    await Promise.all([...this.#upkeeps.values()].map((each) => each[Symbol.asyncDispose]()));
  }

  async #turn(host: string): Promise<void> {
    const kept = this.#kept;
    await this.#learn(host);
    for (const template of kept.of(host)) if (kept.isOver(template)) await this.#takeAnew(template);
    await this.#prepareCopies(host);
    await kept.storeUses();
    await this.#wishes.addHot(host);
    await this.#makePlace(this.#kinds.placeOf({ host }));
    for (const machine of this.#wishes.on(host)) {
      const found = this.#wishes.find(machine);
      // what another host is at may come to nothing
      if (found && isSaved(found)) this.#wishes.drop(machine);
      const key = wishKey(machine);
      if (found || this.#beginning.has(key) || !this.#hasRoom(machine)) continue;
      this.#beginning.add(key);
      await this.#begin(machine).finally(() => this.#beginning.delete(key));
      return;
    }
  }

  async #learn(host: string): Promise<void> {
    const { hosts, warm } = this.#options;
    if (warm.config.maxImages === 0) return;
    for (const driver of hosts.driversUp({ host }))
      if (driverAbilities[driver].warmStart)
        await this.#kinds.learn({ host, driver }).catch(() => undefined);
  }

  /** As soon as what was there does not fit any more. */
  async #takeAnew(template: Template): Promise<void> {
    // where it was taken may never be there again
    const isFit = (seat: Seat): boolean => this.#kinds.isWithin(template, seat);
    const seat = this.#options.hosts.seats().find(isFit) ?? template;
    if (isSaved(template) && !this.#kept.isBad(template))
      this.#wishes.add({ ...template, host: seat.host, driver: seat.driver });
    await this.#kept.remove(template);
  }

  async #prepareCopies(host: string): Promise<void> {
    const { copies } = this.#kept;
    const upkeep = this.#upkeeps.get(host);
    for (const template of this.#kept.of(host)) {
      if (!isSaved(template) || !this.#kept.isReachable(template)) continue;
      await copies.dropUnused(template);
      const { id } = template;
      if (copies.has(id) || upkeep?.isUnfit(id) !== false) continue;
      if (upkeep.isCrowded) return;
      try {
        await copies.prepare(template);
        this.#log.info({ vmId: id, host }, 'a copy of saved memory is ready');
      } catch (error) {
        upkeep.leaveAlone(id); // the next start tells whether the memory can be used
        this.#log.warn({ vmId: id, host, err: error }, 'saved memory could not be copied');
      }
    }
  }

  #hasRoom(machine: Unsaved): boolean {
    const { warm, places } = this.#options;
    const { host, image, parameters } = machine;
    const upkeep = this.#upkeeps.get(host);
    if (!upkeep || upkeep.isCrowded || upkeep.isUnfit(image.id)) return false;
    // for nobody nothing is copied to a host
    if (places.vacancy(host, machine)?.hasImage !== true) return false;
    const freeMiB = isLocal(machine) ? warm.availableMiB() : places.freeMiB(host);
    return freeMiB >= parameters.memoryMiB + warm.config.reserveMiB;
  }

  /** If it is not what would have to go then. */
  async #begin(machine: Unsaved): Promise<void> {
    const complete = await this.#wishes.complete(machine);
    if (!complete) return;
    const template = { ...complete, id: randomUUID() };
    const surplus = this.#kept.surplus(placeOf(template), this.#wishes.ranks, template);
    if (surplus.has(template.id) || (await this.#take(template))) this.#wishes.drop(template);
  }

  /** Stored before anything of it is there. @returns whether it was saved */
  async #take(template: Template): Promise<boolean> {
    const { clock, hosts } = this.#options;
    const { id, image, host, createdMs } = template;
    const about = { vmId: id, imageId: image.id, host };
    const end = new AbortController();
    this.#captures.set(host, { id, end });
    try {
      await this.#kept.save(template);
      const files = this.#kept.filesOf(template);
      const how = { canMap: isLocal(template) && this.#kinds.areFilesOurs, signal: end.signal };
      const captured = await captureMemory(template, files, this.#options, how);
      await this.#kept.save({ ...template, ...captured });
      const isMapped = captured.mapped !== undefined;
      const places = captured.patches.length + (captured.mapped?.patches.length ?? 0);
      const facts = { places, isMapped, ms: clock.now() - createdMs };
      this.#log.info({ ...about, ...facts }, 'the memory of a machine was saved for others');
      return true;
    } catch (error) {
      if (this.#options.stopping.aborted) return false;
      // else it says nothing of the image
      if (!end.signal.aborted && hosts.isUp(template))
        this.#upkeeps.get(host)?.leaveAlone(image.id);
      this.#log.info({ ...about, err: errorText(error) }, 'the memory of a machine was not saved');
      await this.#kept.remove(template);
      return false;
    } finally {
      this.#captures.delete(host);
    }
  }

  /** Makes what is too many go; not before the next is there, which may come to nothing. */
  async #makePlace(place: string): Promise<void> {
    const surplus = this.#kept.surplus(place, this.#wishes.ranks);
    for (const template of this.#kept.all())
      if (surplus.has(template.id) && this.#kept.isReachable(template))
        await this.#kept.remove(template);
  }
}
