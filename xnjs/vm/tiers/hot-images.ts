import type { MachineSpec } from '../target-system.js';
import type { SparesConfig, WarmConfig } from './config.js';
import { ImageLookups, type ImageLookupsOptions } from './image-lookups.js';
import type { Template } from './template.js';

export type HotImagesOptions = ImageLookupsOptions & {
  readonly config: WarmConfig;
  readonly spares: SparesConfig | undefined;
};

/** An image whose memory is to be saved before a user waits for it. */
export type HotImage = {
  readonly image: MachineSpec['image'];
  /** By whose right it is read. */
  readonly ownerDn: string;
  /** Its place among those of the configuration; absent: users have asked for it under that name. */
  readonly rank?: number;
};

/** Those that the configuration names, and what was published since under a name that users ask for. */
export class HotImages {
  readonly #options: HotImagesOptions;
  readonly #lookups: ImageLookups;

  constructor(options: HotImagesOptions) {
    this.#options = options;
    this.#lookups = new ImageLookups(options);
  }

  /** @param saved what users have made us save, among others @throws when the image repository does not answer */
  async list(saved: Iterable<Template>): Promise<HotImage[]> {
    const wishes = [...this.#configured(), ...followed(saved)];
    const hot = new Map<string, HotImage>();
    for (const { reference, ...wish } of wishes) {
      const image = await this.#lookups.find(reference, wish.ownerDn);
      if (image && !hot.has(image.id)) hot.set(image.id, { image, ...wish });
    }
    this.#lookups.keep(wishes.map(({ reference, ownerDn: callerDn }) => ({ reference, callerDn })));
    return [...hot.values()];
  }

  /** Whether it is what its name stands for at present. @throws as `list` does */
  async isNewest({ id, metadata }: MachineSpec['image'], callerDn: string): Promise<boolean> {
    return (await this.#lookups.find(metadata.name, callerDn))?.id === id;
  }

  #configured(): { reference: string; ownerDn: string; rank: number }[] {
    const { config, spares } = this.#options;
    const ofSpares = Object.entries(spares?.images ?? {}).filter(([, count]) => count > 0);
    return [
      ...config.images.map((reference) => ({ reference, ownerDn: config.readAs ?? '' })),
      ...ofSpares.map(([reference]) => ({ reference, ownerDn: spares?.readAs ?? '' })),
    ].map((each, rank) => ({ ...each, rank }));
  }
}

function followed(saved: Iterable<Template>): { reference: string; ownerDn: string }[] {
  return [...saved]
    .filter(({ isNewest }) => isNewest === true)
    .map(({ image, ownerDn }) => ({ reference: image.metadata.name, ownerDn }));
}

/** Memory that is saved, or is to be. */
export type Kept = {
  readonly id: string;
  readonly rank?: number | undefined;
  /** When it was last of use. */
  readonly usedMs: number;
  readonly memoryMiB: number;
};

/** A copy of each waits for its machine. */
const filesOfEach = 2;

/** Those that are too many: of the others the configuration names some, and users have had them last. */
export function surplusOf(
  all: readonly Kept[],
  { maxImages, maxDiskMiB }: Pick<WarmConfig, 'maxImages' | 'maxDiskMiB'>,
): Set<string> {
  const rankOf = ({ rank = Number.MAX_SAFE_INTEGER }: Kept): number => rank;
  const ranked = all.toSorted((a, b) => rankOf(a) - rankOf(b) || b.usedMs - a.usedMs);
  const surplus = new Set<string>();
  let [count, diskMiB] = [0, 0];
  for (const { id, memoryMiB } of ranked) {
    if (count + 1 > maxImages || diskMiB + filesOfEach * memoryMiB > maxDiskMiB) surplus.add(id);
    else [count, diskMiB] = [count + 1, diskMiB + filesOfEach * memoryMiB];
  }
  return surplus;
}
