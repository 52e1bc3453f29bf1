import { imageFormats } from '#imagerepo/contract.js';
import { seatKey, type Seat } from '../hosts/host.js';
import { chooseDriver } from '../parameters.js';
import type { Flavours } from '../placement/flavours.js';
import type { Driver, MachineSpec } from '../target-system.js';
import type { TargetSystemsOptions } from '../target-systems-options.js';
import { HotImages, type HotImage } from './hot-images.js';
import { isSaved, type KeptMemory } from './kept-memory.js';
import type { Kinds } from './kinds.js';
import { plainParameters } from './plain-parameters.js';
import { isSameImage } from './same-machine.js';
import { fingerprintOf, isCopyable, type Template } from './template.js';

export type MemoryWishesOptions = Pick<
  TargetSystemsOptions,
  'hosts' | 'images' | 'clock' | 'log' | 'spares'
> & {
  readonly warm: NonNullable<TargetSystemsOptions['warm']>;
  readonly kept: KeptMemory;
  readonly kinds: Kinds;
  readonly flavours: Flavours;
};

/** An image whose memory is to be saved, by whose right it is read, and for which hosts. */
type Wish = Pick<MachineSpec, 'image'> & {
  readonly ownerDn: string;
  readonly driver: Driver;
  readonly place: string;
  readonly kind: string;
};
type Parameters = MachineSpec['parameters'];
type Wished = Pick<Template, 'image' | 'ownerDn'> & Seat;
/** Not booted yet. */
export type Unsaved = Omit<Template, 'id' | 'fingerprint'>;

/** Of which images, and for which hosts, memory should be saved: hot ones, and those that were started cold. */
export class MemoryWishes {
  readonly #options: MemoryWishesOptions;
  /** The last one last. */
  readonly #wishes = new Map<string, Wish>();
  /** For hosts that had not said yet of which kind they are. */
  readonly #early = new Map<string, Wished>();
  readonly #hot: HotImages;
  #ranks: ReadonlyMap<string, number> = new Map();

  constructor(options: MemoryWishesOptions) {
    const { images, clock, log, warm, spares } = options;
    this.#options = options;
    this.#hot = new HotImages({ images, clock, log, config: warm.config, spares: spares?.config });
  }

  /** Places of images in the configuration, by id. */
  get ranks(): ReadonlyMap<string, number> {
    return this.#ranks;
  }

  /** On hosts like that one, as soon as it is known how that is. */
  add(wished: Wished): void {
    const { image, ownerDn, ...seat } = wished;
    const { kinds } = this.#options;
    const { kind } = kinds.find(seat) ?? {};
    if (!this.#parametersOf({ image, driver: seat.driver })) return;
    const key = `${image.id} ${seatKey(seat)}`;
    this.#early.delete(key);
    if (kind === undefined) {
      this.#early.set(key, { image, ownerDn, host: seat.host, driver: seat.driver });
      return;
    }
    const place = kinds.placeOf(seat);
    const wish = { image, ownerDn, driver: seat.driver, place, kind };
    this.#wishes.delete(wishKey(wish));
    this.#wishes.set(wishKey(wish), wish);
  }

  /** It is saved, or has no place. */
  drop(machine: Unsaved): void {
    this.#wishes.delete(wishKey(machine));
  }

  /** What nobody has waited for yet. @throws when the image repository does not answer */
  async addHot(host: string): Promise<void> {
    const { hosts, kept, warm } = this.#options;
    if (warm.config.maxImages === 0) return;
    const hot = await this.#hot.list(kept.all());
    this.#ranks = new Map(
      hot.flatMap(({ image, rank }) => (rank === undefined ? [] : [[image.id, rank] as const])),
    );
    const drivers = hosts.driversUp({ host });
    for (const { image, ownerDn } of hot) {
      const { drivers: fitting } = imageFormats[image.metadata.format];
      if (!fitting.some((each) => drivers.includes(each))) continue;
      const machine = this.#machineOf(
        { image, ownerDn },
        host,
        chooseDriver(image.metadata, drivers),
      );
      if (!machine || this.find(machine)) continue;
      if (!this.#wishes.has(wishKey(machine))) this.add(machine);
    }
  }

  /** Machines whose memory could be saved there, the last one that was wished for first. */
  on(host: string): Unsaved[] {
    for (const wished of [...this.#early.values()]) if (wished.host === host) this.add(wished);
    return [...this.#wishes.values()].reverse().flatMap((wish) => {
      const machine = this.#machineOf(wish, host, wish.driver);
      return machine?.kind === wish.kind && machine.place === wish.place ? [machine] : [];
    });
  }

  /** What was saved there, or is about to be: also by another host of the same kind, while that is there. */
  find({ image, kind, ...seat }: Unsaved): Template | undefined {
    const { hosts, kept, kinds } = this.#options;
    const isFit = (each: Template): boolean =>
      isSaved(each)
        ? kinds.fits(each, seat)
        : hosts.isUp(each) && each.kind === kind && kinds.isWithin(each, seat);
    return kept
      .all()
      .find((each) => isSameImage(each.image, image) && !kept.isBad(each) && isFit(each));
  }

  /**
   * With what its memory depends on, and what the next of its name is found by; `undefined`: its host is away.
   * @throws as `addHot` does
   */
  async complete(machine: Unsaved): Promise<Omit<Template, 'id'> | undefined> {
    const isNewest = await this.#hot.isNewest(machine.image, machine.ownerDn);
    const described = this.#options.kinds.find(machine);
    if (!described || described.kind !== machine.kind) return undefined;
    return { ...machine, isNewest, fingerprint: fingerprintOf(machine, described.text) };
  }

  /** `undefined`: there is no such machine that could be copied. */
  #parametersOf(machine: Pick<MachineSpec, 'image' | 'driver'>): Parameters | undefined {
    const parameters = plainParameters(machine, this.#options.flavours);
    return parameters && isCopyable({ ...machine, parameters }) === true ? parameters : undefined;
  }

  /** `undefined`: the host is not known at present, or has no such machine. */
  #machineOf(
    { image, ownerDn }: Pick<HotImage, 'image' | 'ownerDn'>,
    host: string,
    driver: Driver,
  ): Unsaved | undefined {
    const { hosts, clock, kinds } = this.#options;
    const seat = { host, driver };
    const described = hosts.isUp(seat) ? kinds.find(seat) : undefined;
    const parameters = this.#parametersOf({ image, driver });
    if (!described || !parameters) return undefined;
    const where = { kind: described.kind, place: kinds.placeOf(seat) };
    return { image, parameters, ...seat, ...where, ownerDn, tags: [], createdMs: clock.now() };
  }
}

/** Hosts that share files and are of the same kind have the same one. */
export function wishKey({
  image,
  place = '',
  kind = '',
}: Pick<Unsaved, 'image' | 'place' | 'kind'>): string {
  return [image.id, place, kind].join(' ');
}
