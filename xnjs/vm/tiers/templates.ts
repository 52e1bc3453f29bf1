import { randomUUID } from 'node:crypto';
import { imageFormats } from '#imagerepo/contract.js';
import { asGridError, errorText, GridError } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import { nameOf } from '../choose-image.js';
import { domainXml } from '../domain-xml.js';
import { FilesOfMachines } from '../files-of-machines.js';
import { driverAbilities } from '../hosts/driver-abilities.js';
import { isLocal, localHost } from '../hosts/host.js';
import type { HostPlacement, Placed } from '../hosts/host-placement.js';
import { whereText } from '../hosts/hosts.js';
import { chooseDriver, chooseParameters } from '../parameters.js';
import type { Flavours } from '../placement/flavours.js';
import { plainUser } from '../placement/requester.js';
import { controlNames } from '../resource-controls.js';
import type { MachineSpec, TargetSystem } from '../target-system.js';
import type { TargetSystemsOptions } from '../target-systems-options.js';
import { captureMemory } from './capture.js';
import type { WarmConfig } from './config.js';
import { copyable, fetchParts } from './image-files.js';
import { kindOf, Kinds, placeOf } from './kinds.js';
import { MemoryWishes, type Wish } from './memory-wishes.js';
import { MemoryWorth } from './memory-worth.js';
import { OwnMemoryFiles, type MemoryFiles } from './memory-files.js';
import { ReadyCopies, type SavedTemplate } from './ready-copies.js';
import { differenceFrom, isSameImage } from './same-machine.js';
import { prepareFiles } from './start-domain.js';
import { fingerprintOf, isCopyable, type Template, type TemplateStore } from './template.js';
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

type Unsaved = Omit<Template, 'id'>;

/**
 * Saved memory of booted machines, from which others are restored (ADR 035), on all hosts that get at it and are like
 * that which it was taken on (ADR 042). Taken from a machine that is booted for that and was nobody's: of images that are
 * hot when they are published, of others after their first cold start.
 */
export class Templates implements AsyncDisposable {
  readonly #options: TemplatesOptions;
  readonly #log: Log;
  readonly #templates = new Map<string, Template>();
  readonly #wishes = new MemoryWishes();
  /** By host: each has turns of its own, so that one that hangs holds up no other. */
  readonly #upkeeps: ReadonlyMap<string, Upkeep>;
  /** A machine could not be restored from these: they are taken anew. */
  readonly #bad = new Set<string>();
  readonly #worth: MemoryWorth;
  readonly #kinds: Kinds;
  readonly #unsubscribe: (() => void)[] = [];
  readonly #files: FilesOfMachines;
  readonly #own: MemoryFiles;
  readonly #copies: ReadyCopies;
  /** By host. */
  readonly #captures = new Map<string, { readonly id: string; readonly end: AbortController }>();

  constructor(options: TemplatesOptions) {
    this.#options = options;
    this.#log = options.log.child({ part: 'xnjs.vm.templates' });
    this.#kinds = new Kinds(options.hosts);
    this.#files = new FilesOfMachines(options);
    this.#own = new OwnMemoryFiles(options.workspace);
    const { clock, images, warm, spares } = options;
    const { config } = warm;
    this.#worth = new MemoryWorth({
      ...{ images, clock, config, spares: spares?.config, log: this.#log },
    });
    this.#copies = new ReadyCopies({ clock, filesOf: (template) => this.#filesOf(template) });
    const upkeepOf = (host: string): Upkeep =>
      new Upkeep({
        ...{ ...options, log: this.#log, turn: () => this.#turn(host) },
        isBusy: () => options.isBusy(host),
      });
    this.#upkeeps = new Map(options.hosts.all.map(({ name }) => [name, upkeepOf(name)]));
  }

  /** Before hypervisors are compared with the records. */
  async load(): Promise<void> {
    for (const template of await this.#options.warm.store.all())
      // earlier versions have stored none
      this.#templates.set(template.id, Object.assign({ host: localHost }, template));
  }

  start(): void {
    this.#unsubscribe.push(this.#kinds.follow());
    for (const upkeep of this.#upkeeps.values()) upkeep.start();
  }

  /** Whether a domain is of ours. */
  has(id: string): boolean {
    return this.#templates.has(id);
  }

  /** Those that are booted for that at present. */
  *machines(): Iterable<MachineSpec> {
    for (const { id } of this.#captures.values()) {
      const template = this.#templates.get(id);
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
      const all = this.#savedFor(wanted).filter((each) => this.#kinds.fits(each, wanted));
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
    const saved = this.#savedFor(draft);
    const described = await this.#kinds.learn(draft).catch(() => undefined);
    const current = saved.filter((each) => this.#kinds.fits(each, draft));
    const [first] = current;
    if (!first) {
      if (described !== undefined) this.#wishes.add(this.#wish(draft, described));
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
    this.#worth.noteUse(fits.id);
    const id = this.#copies.take(fits.id) ?? draft.id;
    const enrolment = this.#options.enrolments?.issueForChannel({ ...draft, id });
    return {
      ...{ ...draft, id },
      ...(enrolment && { enrolment }),
      start: { tier: 'warm', reason: `memory of ${nameOf(image)} was saved` },
      template: fits.id,
      ...(unapplied.length > 0 && { unapplied }),
    };
  }

  #wish(
    { image, ownerDn, driver, host }: Pick<Template, 'image' | 'ownerDn' | 'driver' | 'host'>,
    described: string,
  ): Wish {
    const [place, kind] = [this.#kinds.placeOf({ host }), kindOf(described)];
    return { image, ownerDn, driver, place, kind };
  }

  /** Of its image, whatever hosts it fits. */
  #savedFor({ image, ...seat }: Pick<MachineSpec, 'image' | 'driver' | 'host'>): SavedTemplate[] {
    return [...this.#templates.values()].filter(
      (each): each is SavedTemplate =>
        isSaved(each) &&
        isSameImage(each.image, image) &&
        this.#kinds.isWithin(each, seat) &&
        !this.#bad.has(each.id),
    );
  }

  /** Else a machine cannot be restored there: what it was booted from is looked for then, too. */
  #hasImage(machine: Pick<MachineSpec, 'host' | 'image'>): boolean {
    return this.#options.hosts.storageOf(machine)?.hasImage(machine.image) ?? true;
  }

  /** Restores a machine from the memory that was chosen for it. @throws if any of it fails */
  async restore(record: TargetSystem): Promise<{ definedMs: number }> {
    const { hosts, installationId, lease } = this.#options;
    const template = this.#templates.get(record.template ?? '');
    if (!template || !isSaved(template)) throw new Error('the saved memory is gone');
    const { driver, id } = record;
    const parts = await fetchParts(record, record.ownerDn, this.#options);
    const missing = await hosts
      .storageOf(record)
      ?.missing(await copyable(record, parts, this.#options));
    if (missing && missing.length > 0) throw new Error('its image is not there any more');
    const paths = await prepareFiles(record, parts, this.#options);
    try {
      return await this.#copies.use(template, id, async (memory) => {
        const placed = { ...record, sharedCores: hosts.sharedCores(record) };
        const xml = domainXml(placed, paths, installationId, undefined, lease?.epoch);
        return await hosts.of(record).restoreMemory(driver, id, { xml, memory });
      });
    } catch (error) {
      if (asGridError(error)?.row.retry !== true) this.#bad.add(template.id);
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
    await this.#learn(host);
    for (const template of this.#keptBy(host))
      if (this.#isOver(template)) await this.#takeAnew(template);
    await this.#prepareCopies(host);
    await this.#storeUses();
    await this.#wishForHot(host);
    for (const template of this.#keptBy(host))
      if (isSaved(template) && this.#surplus(template).has(template.id))
        await this.#remove(template);
    for (const wish of this.#wishes.newestFirst()) {
      const machine = this.#machineFor(wish, host);
      if (!machine) continue;
      if (!this.#isWanted(machine)) this.#wishes.delete(wish);
      else if (!this.#hasRoom(machine)) continue;
      else {
        const isNewest = await this.#worth.isNewest(machine.image, machine.ownerDn);
        const template = { ...machine, id: randomUUID(), isNewest };
        if (this.#surplus(template).has(template.id) || (await this.#take(template)))
          this.#wishes.delete(wish);
      }
      return;
    }
  }

  /** As soon as what is there fits no host any more. */
  async #takeAnew(template: Template): Promise<void> {
    const described = this.#kinds.find(template);
    const isOutdated = isSaved(template) && !this.#bad.has(template.id);
    if (isOutdated && described !== undefined)
      this.#wishes.addQuietly(this.#wish(template, described));
    await this.#remove(template);
  }

  /** What nobody has waited for yet. */
  async #wishForHot(host: string): Promise<void> {
    const drivers = this.#options.hosts.driversUp({ host });
    for (const { image, ownerDn } of await this.#worth.hot(this.#templates.values())) {
      if (!imageFormats[image.metadata.format].drivers.some((each) => drivers.includes(each)))
        continue;
      const driver = chooseDriver(image.metadata, drivers);
      const described = this.#kinds.find({ host, driver });
      if (described === undefined) continue;
      const wish = this.#wish({ image, ownerDn, driver, host }, described);
      const machine = this.#machineFor(wish, host);
      if (machine && isCopyable(machine) === true && this.#isWanted(machine))
        this.#wishes.addQuietly(wish);
    }
  }

  async #storeUses(): Promise<void> {
    for (const used of this.#worth.takeUses(this.#templates.values())) {
      this.#templates.set(used.id, used);
      await this.#options.warm.store.save(used);
    }
  }

  async #learn(host: string): Promise<void> {
    const { hosts, warm } = this.#options;
    if (warm.config.maxImages === 0) return;
    for (const driver of hosts.driversUp({ host }))
      if (driverAbilities[driver].warmStart)
        // of what is not known no memory is restored
        await this.#kinds.learn({ host, driver }).catch(() => undefined);
  }

  /**
   * Whose turn it is to see after these: of what was not saved yet its own host's, which may have a domain of it; else
   * that of the place where its files are.
   */
  #keptBy(host: string): Template[] {
    return [...this.#templates.values()].filter((template) =>
      isSaved(template) && isHere(template) ? host === localHost : template.host === host,
    );
  }

  /** Its files and what else is to be removed with it; of a place of which nothing is known they are not. */
  #isReachable(template: Template): boolean {
    if (isSaved(template) && isHere(template)) return true;
    const isThere = isHere(template) || this.#kinds.placeOf(template) === placeOf(template);
    return isThere && this.#options.hosts.isUp(template);
  }

  async #prepareCopies(host: string): Promise<void> {
    const upkeep = this.#upkeeps.get(host);
    for (const template of this.#keptBy(host)) {
      if (!isSaved(template) || !this.#isReachable(template)) continue;
      await this.#copies.dropUnused(template);
      const { id } = template;
      if (this.#copies.has(id) || upkeep?.isUnfit(id) !== false) continue;
      if (upkeep.isCrowded) return;
      try {
        await this.#copies.prepare(template);
        this.#log.info({ vmId: id, host }, 'a copy of saved memory is ready');
      } catch (error) {
        upkeep.leaveAlone(id); // the next start tells whether the memory can be used
        this.#log.warn({ vmId: id, host, err: error }, 'saved memory could not be copied');
      }
    }
  }

  /** Never finished, or not to be restored anywhere any more. */
  #isOver(template: Template): boolean {
    if (!this.#isReachable(template)) return false; // nothing is known
    if (!isSaved(template) || this.#bad.has(template.id)) return true;
    return this.#options.warm.config.maxImages === 0 || this.#kinds.isOutdated(template);
  }

  /** That whose memory would be saved there; `undefined`: the host is not of those that it is wanted for. */
  #machineFor({ image, ownerDn, driver, place, kind }: Wish, host: string): Unsaved | undefined {
    const { hosts, flavours, clock } = this.#options;
    const seat = { host, driver };
    const described = hosts.isUp(seat) ? this.#kinds.find(seat) : undefined;
    if (described === undefined || kindOf(described) !== kind) return undefined;
    if (this.#kinds.placeOf(seat) !== place) return undefined;
    const parameters = chooseParameters({}, image, driver, flavours.boundsFor(plainUser));
    const machine = { image, parameters, ...seat };
    const fingerprint = fingerprintOf(machine, described);
    const about = { ownerDn, tags: [], createdMs: clock.now() };
    return { ...machine, ...about, fingerprint, kind, place };
  }

  /** Nobody has saved it there, or is about to: another host of the same kind may have. */
  #isWanted({ image, fingerprint, ...seat }: Unsaved): boolean {
    return ![...this.#templates.values()].some(
      (each) =>
        isSameImage(each.image, image) &&
        each.fingerprint === fingerprint &&
        this.#kinds.isWithin(each, seat) &&
        !this.#bad.has(each.id),
    );
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

  /** Stored before anything of it is there. @returns whether it was saved */
  async #take(template: Template): Promise<boolean> {
    const { warm, clock, hosts } = this.#options;
    const { id, image, host, createdMs } = template;
    const about = { vmId: id, imageId: image.id, host };
    const end = new AbortController();
    this.#captures.set(host, { id, end });
    try {
      await this.#removeAll(this.#surplus(template));
      await warm.store.save(template);
      this.#templates.set(id, template);
      const files = this.#filesOf(template);
      const saved = {
        ...template,
        ...(await captureMemory(template, files, this.#options, end.signal)),
      };
      await warm.store.save(saved);
      this.#templates.set(id, saved);
      const facts = { ...about, places: saved.patches.length, ms: clock.now() - createdMs };
      this.#log.info(facts, 'the memory of a machine was saved for others');
      return true;
    } catch (error) {
      if (this.#options.stopping.aborted) return false;
      // else it says nothing of the image
      if (!end.signal.aborted && hosts.isUp(template))
        this.#upkeeps.get(host)?.leaveAlone(image.id);
      this.#log.info({ ...about, err: errorText(error) }, 'the memory of a machine was not saved');
      await this.#remove(template);
      return false;
    } finally {
      this.#captures.delete(host);
    }
  }

  /** For hosts of each kind there are so many. @param next is about to be saved */
  #surplus(next: Template): ReadonlySet<string> {
    const alike = [...this.#templates.values()].filter(
      (each) => isSaved(each) && each.kind === next.kind && this.#kinds.isWithin(each, next),
    );
    return this.#worth.surplus(alike.includes(next) ? alike : [...alike, next]);
  }

  async #removeAll(surplus: ReadonlySet<string>): Promise<void> {
    for (const template of this.#templates.values())
      if (surplus.has(template.id)) await this.#remove(template);
  }

  /** May be repeated; the record goes last. */
  async #remove(template: Template): Promise<void> {
    const { warm, lease, hosts } = this.#options;
    const { id, driver, image, host } = template;
    await lease?.require();
    // what was saved has no domain, and its host may be away
    if (!isSaved(template)) await hosts.of(template).remove(driver, id);
    this.#copies.forget(id);
    await this.#files.remove({ id, host: isHere(template) ? localHost : host });
    await warm.store.remove(id);
    this.#templates.delete(id);
    this.#bad.delete(id);
    this.#log.info({ vmId: id, imageId: image.id }, 'saved memory was removed');
  }

  #filesOf(template: Template): MemoryFiles {
    if (isHere(template)) return this.#own;
    const storage = this.#options.hosts.storageOf(template);
    if (storage) return storage.memory;
    throw new GridError(
      'HYPERVISOR_UNAVAILABLE',
      `host ${template.host} has no storage of its own`,
    );
  }
}

/** In this server's directory, and not in a pool of its host. */
function isHere(template: Template): boolean {
  return placeOf(template) === localHost;
}

function isSaved(template: Template): template is SavedTemplate {
  return template.patches !== undefined && template.bootId !== undefined;
}
