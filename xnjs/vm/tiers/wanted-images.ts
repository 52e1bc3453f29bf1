import type { SparesConfig } from './config.js';
import { Demand } from './demand.js';
import { ImageLookups, type ImageLookupsOptions } from './image-lookups.js';
import type { Spare } from './spare.js';

export type WantedImagesOptions = ImageLookupsOptions & { readonly config: SparesConfig };

/** Of an image, how many spares there should be. */
export type Wanted = {
  readonly image: Spare['image'];
  readonly callerDn: string;
  readonly count: number;
};

/** Of which images spares are wanted: those of the configuration first, then what users ask for most. */
export class WantedImages {
  readonly #options: WantedImagesOptions;
  readonly #demand: Demand;
  readonly #lookups: ImageLookups;

  constructor(options: WantedImagesOptions) {
    this.#options = options;
    this.#demand = new Demand(options.config.demand);
    this.#lookups = new ImageLookups(options);
  }

  note(imageId: string, callerDn: string): void {
    this.#demand.note(imageId, callerDn, this.#options.clock.now());
  }

  /** @throws when the image repository does not answer */
  async list(): Promise<Wanted[]> {
    const { config, clock } = this.#options;
    const configured = Object.entries(config.images).map(([reference, count]) => ({
      ...{ reference, count, callerDn: config.readAs ?? '' },
    }));
    const demanded = this.#demand
      .wanted(clock.now())
      .map(({ imageId, ...wish }) => ({ reference: imageId, ...wish }));
    const wishes = [...configured, ...demanded];
    const wanted = new Map<string, Wanted>();
    for (const { reference, callerDn, count } of wishes) {
      const image = await this.#lookups.find(reference, callerDn);
      const former = image && wanted.get(image.id);
      if (image && (!former || former.count < count))
        wanted.set(image.id, { image, callerDn, count });
    }
    this.#lookups.keep(wishes);
    return [...wanted.values()];
  }
}
