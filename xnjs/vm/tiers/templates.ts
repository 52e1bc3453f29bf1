import { randomUUID } from 'node:crypto';
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { imageFormats } from '#imagerepo/contract.js';
import { asGridError, errorText } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import { nameOf } from '../choose-image.js';
import type { MachineIdentity } from '#tsi/protocol/machine-identity.js';
import { createBinding } from '../create-binding.js';
import { domainXml } from '../domain-xml.js';
import { isLocal, localHost } from '../hosts/host.js';
import type { Hypervisor } from '../hypervisor.js';
import { chooseDriver, chooseParameters } from '../parameters.js';
import type { Flavours } from '../placement/flavours.js';
import { plainUser } from '../placement/requester.js';
import { controlNames } from '../resource-controls.js';
import type { Driver, TargetSystem } from '../target-system.js';
import type { TargetSystemsOptions } from '../target-systems-options.js';
import { awaitAgent } from './await-agent.js';
import type { WarmConfig } from './config.js';
import { HotImages, surplusOf, type Kept } from './hot-images.js';
import { newIdentity } from './identity.js';
import { findIdentity } from './memory-file.js';
import { ReadyCopies, type SavedTemplate } from './ready-copies.js';
import { differenceFrom, isSameImage, specOf } from './same-machine.js';
import { startDomain } from './start-domain.js';
import { fingerprintOf, isCopyable, type Template, type TemplateStore } from './template.js';
import { Upkeep } from './upkeep.js';

export type TemplatesOptions = TargetSystemsOptions & {
  readonly warm: NonNullable<TargetSystemsOptions['warm']>;
  /** Whether a machine of a user is being started at present. */
  readonly isBusy: (host: string) => boolean;
  readonly flavours: Flavours;
  readonly stopping: AbortSignal;
};

export type WarmOptions = {
  readonly store: TemplateStore;
  readonly config: WarmConfig;
  readonly availableMiB: () => number;
};

/** For the agent to see that nobody listens any more, and to wait for the next to call. */
const hangUpMs = 1_000;

/**
 * Saved memory of booted machines, from which others are restored (ADR 035). Taken from a machine that is booted for
 * that and was nobody's: of images that are hot when they are published, of others after their first cold start.
 */
export class Templates implements AsyncDisposable {
  readonly #options: TemplatesOptions;
  readonly #log: Log;
  readonly #templates = new Map<string, Template>();
  /** Images that were started cold, the last one last, and by whose right. */
  readonly #wishes = new Map<
    string,
    { image: Template['image']; ownerDn: string; driver: Driver }
  >();
  readonly #upkeep: Upkeep;
  readonly #hot: HotImages;
  /** Places of images in the configuration, by id; absent: not known yet. */
  #ranks: ReadonlyMap<string, number> | undefined;
  /** Memory that machines were started from, and when, as far as it is not stored yet. */
  readonly #used = new Map<string, number>();
  /** A machine could not be restored from these: they are taken anew. */
  readonly #bad = new Set<string>();
  readonly #hosts = new Map<Driver, string>();
  readonly #unsubscribe: (() => void)[] = [];
  readonly #copies: ReadyCopies;
  #capture: AbortController | undefined;

  constructor(options: TemplatesOptions) {
    this.#options = options;
    this.#log = options.log.child({ part: 'xnjs.vm.templates' });
    this.#copies = new ReadyCopies(options);
    const { images, clock, warm, spares } = options;
    const { config } = warm;
    this.#hot = new HotImages({ images, clock, config, spares: spares?.config, log: this.#log });
    this.#upkeep = new Upkeep({
      ...{ ...options, log: this.#log, turn: () => this.#turn() },
      isBusy: () => options.isBusy(localHost),
    });
  }

  /** Before hypervisors are compared with the records. */
  async load(): Promise<void> {
    for (const template of await this.#options.warm.store.all()) {
      this.#templates.set(template.id, { ...template, host: localHost });
      await this.#copies.dropAll(template.id);
    }
  }

  /** All of it is on the host of the server. */
  get #local(): Hypervisor {
    return this.#options.hosts.of({ host: localHost });
  }

  start(): void {
    // another version may have come up
    this.#unsubscribe.push(this.#local.onAvailable((driver) => this.#hosts.delete(driver)));
    this.#upkeep.start();
  }

  /** Whether a domain is of ours. */
  has(id: string): boolean {
    return this.#templates.has(id);
  }

  /**
   * Makes a start warm, if there is memory that fits. It gets the id that a copy of it has already.
   * @returns the reason, where there is none; then it is remembered that there should be
   */
  async choose(draft: TargetSystem): Promise<TargetSystem | string> {
    const { image, driver, ownerDn } = draft;
    if (this.#options.warm.config.maxImages === 0) return 'no memory of machines is saved here';
    if (!isLocal(draft)) return 'memory is saved on the host of the server only';
    const copyable = isCopyable(draft);
    if (copyable !== true) return copyable;
    const same = [...this.#templates.values()].filter(
      (each) =>
        isSameImage(each.image, image) &&
        each.driver === driver &&
        isSaved(each) &&
        !this.#bad.has(each.id),
    );
    const host = await this.#host(driver).catch(() => undefined);
    const current = same.filter((each) => fingerprintOf(each, host ?? '') === each.fingerprint);
    const [first] = current;
    if (!first) {
      this.#wishes.delete(image.id);
      this.#wishes.set(image.id, { image, ownerDn, driver });
      return same.length === 0
        ? 'no memory of a machine of this image is saved'
        : 'the saved memory is of another hypervisor or processor';
    }
    const fits = current.find((each) => differenceFrom(each, draft) === undefined);
    if (!fits) return `${differenceFrom(first, draft) ?? 'its size'} of the saved memory`;
    const unapplied = controlNames.filter(
      (name) => draft.parameters[name] !== fits.parameters[name],
    );
    this.#used.set(fits.id, this.#options.clock.now());
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

  /** Restores a machine from the memory that was chosen for it. @throws if any of it fails */
  async restore(record: TargetSystem): Promise<{ definedMs: number }> {
    const { workspace, images, installationId, lease } = this.#options;
    const template = this.#templates.get(record.template ?? '');
    if (!template || !isSaved(template)) throw new Error('the saved memory is gone');
    const { image, driver, id } = record;
    const parts: Record<string, string> = {};
    for (const name of imageFormats[image.metadata.format].parts)
      parts[name] = await images.fetch(image, name, record.ownerDn);
    const paths = await workspace.prepare(record, parts);
    let memory: string | undefined;
    try {
      memory = await this.#copies.fileFor(id, template, this.#pathOf(template));
      const placed = { ...record, sharedCores: this.#options.hosts.sharedCores(record) };
      const xml = domainXml(placed, paths, installationId, undefined, lease?.epoch);
      return await this.#local.restoreMemory(driver, id, { xml, memory });
    } catch (error) {
      if (asGridError(error)?.row.retry !== true) this.#bad.add(template.id);
      throw error;
    } finally {
      if (memory !== undefined) await rm(memory, { force: true });
    }
  }

  /** A user's machine is about to be started: what is being saved can wait. */
  yield(host: string): void {
    if (!isLocal({ host })) return;
    this.#upkeep.yield();
    this.#capture?.abort(new Error('a user starts a machine'));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const end of this.#unsubscribe.splice(0)) end();
    this.#capture?.abort(new Error('the server stops'));
    await this.#upkeep[Symbol.asyncDispose]();
  }

  async #turn(): Promise<void> {
    for (const template of this.#templates.values())
      if (await this.#isOver(template)) await this.#takeAnew(template);
    await this.#prepareCopies();
    await this.#storeUses();
    await this.#wishForHot();
    await this.#makePlace();
    const { clock } = this.#options;
    for (const [imageId, { image, ownerDn, driver }] of [...this.#wishes].reverse()) {
      if (this.#upkeep.isUnfit(imageId)) continue;
      if (!this.#hasRoom(image, driver)) return;
      const bounds = this.#options.flavours.boundsFor(plainUser);
      const parameters = chooseParameters({}, image, driver, bounds);
      const machine = { id: randomUUID(), image, driver, parameters, host: localHost };
      const fingerprint = fingerprintOf(machine, await this.#host(driver));
      const isNewest = await this.#hot.isNewest(image, ownerDn);
      const about = { ownerDn, tags: [], createdMs: clock.now(), fingerprint, isNewest };
      const template = { ...machine, ...about };
      if (this.#surplus(template).has(template.id)) {
        this.#wishes.delete(imageId);
        continue;
      }
      await this.#take(template);
      return;
    }
  }

  /** As soon as what was there does not fit this host any more. */
  async #takeAnew(template: Template): Promise<void> {
    const { image, ownerDn, driver } = template;
    if (isSaved(template) && !this.#bad.has(template.id) && !this.#wishes.has(image.id))
      this.#wishes.set(image.id, { image, ownerDn, driver });
    await this.#remove(template);
  }

  /** What nobody has waited for yet. */
  async #wishForHot(): Promise<void> {
    const { hosts, warm } = this.#options;
    if (warm.config.maxImages === 0) return;
    const hot = await this.#hot.list(this.#templates.values());
    this.#ranks = new Map(
      hot.flatMap(({ image, rank }) => (rank === undefined ? [] : [[image.id, rank] as const])),
    );
    const drivers = hosts.driversUp({ host: localHost });
    for (const { image, ownerDn } of hot) {
      const { drivers: fitting } = imageFormats[image.metadata.format];
      if (this.#wishes.has(image.id) || !fitting.some((each) => drivers.includes(each))) continue;
      const driver = chooseDriver(image.metadata, drivers);
      const isThere = [...this.#templates.values()].some(
        (each) => each.driver === driver && isSameImage(each.image, image),
      );
      const machine = { id: '', image, driver, parameters: { cpus: 1, memoryMiB: 1 } };
      if (isThere || isCopyable({ ...machine, host: localHost }) !== true) continue;
      this.#wishes.set(image.id, { image, ownerDn, driver });
    }
  }

  /** So that a server that comes later knows it, too. */
  async #storeUses(): Promise<void> {
    for (const [id, usedMs] of this.#used) {
      this.#used.delete(id);
      const template = this.#templates.get(id);
      if (!template) continue;
      const used = { ...template, usedMs };
      this.#templates.set(id, used);
      await this.#options.warm.store.save(used);
    }
  }

  /** @param next is about to be saved */
  #surplus(next?: Template): ReadonlySet<string> {
    const all = [...this.#templates.values(), ...(next ? [next] : [])].map(
      ({ id, image, parameters: { memoryMiB }, createdMs, usedMs = createdMs }): Kept => ({
        ...{ id, memoryMiB, rank: this.#ranks?.get(image.id) },
        usedMs: this.#used.get(id) ?? usedMs,
      }),
    );
    return surplusOf(all, this.#options.warm.config);
  }

  async #prepareCopies(): Promise<void> {
    await this.#copies.dropUnused();
    for (const template of this.#templates.values()) {
      const { id } = template;
      if (!isSaved(template) || this.#copies.has(id) || this.#upkeep.isUnfit(id)) continue;
      if (this.#upkeep.isCrowded) return;
      try {
        await this.#copies.prepare(template, this.#pathOf(template));
        this.#log.info({ vmId: id }, 'a copy of saved memory is ready');
      } catch (error) {
        this.#upkeep.leaveAlone(id); // the next start tells whether the memory can be used
        this.#log.warn({ vmId: id, err: error }, 'saved memory could not be copied');
      }
    }
  }

  /** Never finished, or not to be restored here any more. */
  async #isOver(template: Template): Promise<boolean> {
    const { hosts, warm } = this.#options;
    if (!hosts.isUp(template)) return false; // nothing is known
    if (!isSaved(template) || this.#bad.has(template.id) || warm.config.maxImages === 0)
      return true;
    return fingerprintOf(template, await this.#host(template.driver)) !== template.fingerprint;
  }

  #hasRoom(image: Template['image'], driver: Driver): boolean {
    const { warm, hosts, flavours } = this.#options;
    const here = { host: localHost };
    if (this.#upkeep.isCrowded) return false;
    if (hosts.isDrainedAt(here) || !hosts.driversUp(here).includes(driver)) return false;
    const { memoryMiB } = chooseParameters({}, image, driver, flavours.boundsFor(plainUser));
    return warm.availableMiB() >= memoryMiB + warm.config.reserveMiB;
  }

  /** Boots a machine of nobody's, and saves its memory. */
  async #take(template: Template): Promise<void> {
    const { warm, workspace, clock } = this.#options;
    const { id, driver, image } = template;
    const about = { vmId: id, imageId: image.id };
    const capture = new AbortController();
    this.#capture = capture;
    try {
      await this.#makePlace(template);
      await warm.store.save(template);
      this.#templates.set(id, template);
      const bootId = await this.#boot(template, capture.signal);
      await clock.sleep(hangUpMs, capture.signal);
      const path = this.#pathOf(template);
      await mkdir(join(workspace.directoryOf(id)), { recursive: true });
      await this.#local.saveMemory(driver, id, path);
      const saved = { ...template, bootId, patches: await findIdentity(path, { id, bootId }) };
      await warm.store.save(saved);
      this.#templates.set(id, saved);
      this.#wishes.delete(image.id);
      this.#log.info(
        { ...about, places: saved.patches.length, ms: clock.now() - template.createdMs },
        'the memory of a machine was saved for others',
      );
    } catch (error) {
      if (this.#upkeep.isStopping) return;
      if (!capture.signal.aborted) this.#upkeep.leaveAlone(image.id);
      this.#log.info({ ...about, err: errorText(error) }, 'the memory of a machine was not saved');
      await this.#remove(template);
    } finally {
      this.#capture = undefined;
    }
  }

  /** When this resolves nobody is connected to its agent any more. @returns the kernel's name of its boot */
  async #boot(template: Template, signal: AbortSignal): Promise<string> {
    const { clock, bootTimeoutMs } = this.#options;
    await startDomain(specOf(template), template.ownerDn, this.#options);
    const how = { isCopy: true, isRehearsal: true };
    const identity = (): MachineIdentity => newIdentity(template, clock.now(), how);
    await using binding = createBinding(template, this.#options, identity);
    const facts = await awaitAgent(binding, clock, bootTimeoutMs, signal);
    if (facts?.copies !== true || facts.bootId === undefined || !binding.assume)
      throw new Error('its agent cannot make a copy of its machine another one');
    // once more than its greeting: after a request it also clears memory that it does not use
    await binding.assume(identity());
    return facts.bootId;
  }

  /** Makes what is too many go, with what is about to be saved. */
  async #makePlace(next?: Template): Promise<void> {
    const surplus = this.#surplus(next);
    for (const template of this.#templates.values())
      if (surplus.has(template.id)) await this.#remove(template);
  }

  /** May be repeated; the record goes last. */
  async #remove({ id, driver, image }: Template): Promise<void> {
    const { workspace, warm, lease } = this.#options;
    await lease?.require();
    await this.#local.remove(driver, id);
    await this.#copies.dropAll(id);
    await workspace.remove(id);
    await warm.store.remove(id);
    this.#templates.delete(id);
    this.#bad.delete(id);
    this.#used.delete(id);
    this.#log.info({ vmId: id, imageId: image.id }, 'saved memory was removed');
  }

  async #host(driver: Driver): Promise<string> {
    const known = this.#hosts.get(driver) ?? (await this.#local.describe(driver));
    this.#hosts.set(driver, known);
    return known;
  }

  #pathOf({ id }: Pick<Template, 'id'>): string {
    return join(this.#options.workspace.directoryOf(id), memoryFile);
  }
}

const memoryFile = 'memory.save';

function isSaved(template: Template): template is SavedTemplate {
  return template.patches !== undefined && template.bootId !== undefined;
}
