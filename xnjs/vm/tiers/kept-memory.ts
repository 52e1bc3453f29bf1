import { GridError } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import { FilesOfMachines } from '../files-of-machines.js';
import { localHost } from '../hosts/host.js';
import type { MachineSpec } from '../target-system.js';
import type { TargetSystemsOptions } from '../target-systems-options.js';
import { surplusOf, type Kept } from './hot-images.js';
import { placeOf, type Kinds } from './kinds.js';
import { OwnMemoryFiles, type MemoryFiles } from './memory-files.js';
import { ReadyCopies, type SavedTemplate } from './ready-copies.js';
import { isSameImage } from './same-machine.js';
import type { Template } from './template.js';

export type KeptMemoryOptions = TargetSystemsOptions & {
  readonly warm: NonNullable<TargetSystemsOptions['warm']>;
  readonly kinds: Kinds;
};

/** The records of saved memory, wherever its files are, and of that which is about to be saved. */
export class KeptMemory {
  readonly copies: ReadyCopies;
  readonly #options: KeptMemoryOptions;
  readonly #log: Log;
  readonly #templates = new Map<string, Template>();
  /** A machine could not be restored from these: they are taken anew. */
  readonly #bad = new Set<string>();
  /** That machines were started from, and when, as far as it is not stored yet. */
  readonly #used = new Map<string, number>();
  readonly #files: FilesOfMachines;
  readonly #own: MemoryFiles;

  constructor(options: KeptMemoryOptions) {
    this.#options = options;
    this.#log = options.log.child({ part: 'xnjs.vm.templates' });
    this.#files = new FilesOfMachines(options);
    this.#own = new OwnMemoryFiles(options.workspace);
    const { clock } = options;
    this.copies = new ReadyCopies({ clock, filesOf: (template) => this.filesOf(template) });
  }

  async load(): Promise<void> {
    for (const template of await this.#options.warm.store.all())
      // earlier versions have stored no host
      this.#templates.set(template.id, Object.assign({ host: localHost }, template));
  }

  has(id: string): boolean {
    return this.#templates.has(id);
  }

  find(id: string): Template | undefined {
    return this.#templates.get(id);
  }

  all(): Template[] {
    return [...this.#templates.values()];
  }

  /** Stored before it is seen. */
  async save(template: Template): Promise<void> {
    await this.#options.warm.store.save(template);
    this.#templates.set(template.id, template);
  }

  /** Of its image, for machines of that host, whatever it is of. */
  savedFor({ image, ...seat }: Pick<MachineSpec, 'image' | 'driver' | 'host'>): SavedTemplate[] {
    return this.all().filter(
      (each): each is SavedTemplate =>
        isSaved(each) &&
        isSameImage(each.image, image) &&
        this.#options.kinds.isWithin(each, seat) &&
        // until it is taken anew, because other hosts have come to share our files
        (!each.mapped || each.host === seat.host) &&
        !this.isBad(each),
    );
  }

  isBad({ id }: Template): boolean {
    return this.#bad.has(id);
  }

  spoil(id: string): void {
    this.#bad.add(id);
  }

  use(id: string): void {
    this.#used.set(id, this.#options.clock.now());
  }

  /** So that a server that comes later knows it, too. */
  async storeUses(): Promise<void> {
    for (const [id, usedMs] of this.#used) {
      this.#used.delete(id);
      const template = this.#templates.get(id);
      if (!template) continue;
      const used = { ...template, usedMs };
      this.#templates.set(id, used);
      await this.#options.warm.store.save(used);
    }
  }

  /**
   * Which of them a host's turn sees after. Of what was not saved yet it is its own, which may have a domain of it; else
   * it is where the files are. One that is not configured any more has no turns.
   */
  of(host: string): Template[] {
    const { hosts } = this.#options;
    const isConfigured = (name: string): boolean => hosts.all.some((each) => each.name === name);
    return this.all().filter((template) => {
      const isOurs = isInFilesHere(template) || !isConfigured(template.host);
      return (isOurs ? localHost : template.host) === host;
    });
  }

  /** Its files, and what else is to be removed with it. */
  isReachable(template: Template): boolean {
    if (isInFilesHere(template)) return true;
    const { hosts, kinds } = this.#options;
    return (
      (isHere(template) || kinds.placeOf(template) === placeOf(template)) && hosts.isUp(template)
    );
  }

  /** Never finished, or not to be restored anywhere any more. */
  isOver(template: Template): boolean {
    if (this.#isLost(template)) return true;
    if (!this.isReachable(template)) return false; // nothing is known
    if (!isSaved(template) || this.isBad(template)) return true;
    const { warm, kinds } = this.#options;
    if (template.mapped && !kinds.areFilesOurs) return true;
    return warm.config.maxImages === 0 || kinds.isOutdated(template);
  }

  /** It went with a host that was declared lost (ADR 047). */
  #isLost(template: Template): boolean {
    return !isInFilesHere(template) && this.#options.hosts.isLost(template);
  }

  /**
   * That is too much where it is: of images for hosts of each kind, and of disk for all of them.
   * @param ranks places of images in the configuration, by id
   * @param next is about to be saved
   */
  surplus(place: string, ranks: ReadonlyMap<string, number>, next?: Template): Set<string> {
    const { maxImages, maxDiskMiB } = this.#options.warm.config;
    // what others are about to save may come to nothing
    const saved: Template[] = this.all().filter(isSaved);
    const there = [...saved, ...(next ? [next] : [])].filter((each) => placeOf(each) === place);
    const kept = ({ id, image, parameters, createdMs, usedMs = createdMs }: Template): Kept => ({
      ...{ id, rank: ranks.get(image.id), memoryMiB: parameters.memoryMiB },
      usedMs: this.#used.get(id) ?? usedMs,
    });
    const disk = { maxImages: Number.POSITIVE_INFINITY, maxDiskMiB };
    const surplus = surplusOf(there.map(kept), disk);
    for (const kind of new Set(there.map((each) => each.kind))) {
      const alike = there.filter((each) => each.kind === kind).map(kept);
      for (const id of surplusOf(alike, { maxImages, maxDiskMiB })) surplus.add(id);
    }
    return surplus;
  }

  /** May be repeated; the record goes last. */
  async remove(template: Template): Promise<void> {
    const { warm, lease, hosts, store } = this.#options;
    const { id, driver, image, host } = template;
    await lease?.require();
    // nobody can look: a domain or files of it that turn up there are leftovers
    if (this.#isLost(template)) await store.noteRemoved(id);
    // what was saved has no domain, and its host may be away
    else if (!isSaved(template)) await hosts.of(template).remove(driver, id);
    this.copies.forget(id);
    await this.#files.remove({ id, host: isHere(template) ? localHost : host });
    // first: what is noted of its use would be stored after it
    this.#templates.delete(id);
    try {
      await warm.store.remove(id);
    } catch (error) {
      this.#templates.set(id, template); // it goes in a later turn
      throw error;
    }
    this.#used.delete(id);
    this.#bad.delete(id);
    this.#log.info({ vmId: id, imageId: image.id }, 'saved memory was removed');
  }

  filesOf(template: Template): MemoryFiles {
    if (isHere(template)) return this.#own;
    const storage = this.#options.hosts.storageOf(template);
    if (storage) return storage.memory;
    throw new GridError(
      'HYPERVISOR_UNAVAILABLE',
      `host ${template.host} has no storage of its own`,
    );
  }
}

export function isSaved(template: Template): template is SavedTemplate {
  return template.patches !== undefined && template.bootId !== undefined;
}

/** Whole, and there for all hosts that share them, whatever becomes of the one that it was taken on. */
function isInFilesHere(template: Template): boolean {
  return isSaved(template) && isHere(template);
}

/** In this server's directory, and not in a pool of its host. */
function isHere(template: Template): boolean {
  return placeOf(template) === localHost;
}
