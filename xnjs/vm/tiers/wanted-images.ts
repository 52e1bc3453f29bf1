import type { ImageRecord } from '#imagerepo/contract.js';
import type { Clock } from '#kernel/clock.js';
import { asGridError, errorText } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import type { ImageSource } from '../image-source.js';
import type { SparesConfig } from './config.js';
import { Demand } from './demand.js';
import type { Spare } from './spare.js';

export type WantedImagesOptions = {
  readonly images: Pick<ImageSource, 'find'>;
  readonly config: SparesConfig;
  readonly clock: Clock;
  readonly log: Log;
};

/** Of an image, how many spares there should be. */
export type Wanted = {
  readonly image: Spare['image'];
  readonly callerDn: string;
  readonly count: number;
};

/** Images are looked up again: there may be a newer upload of that name, or none any more. */
const lookUpMs = 30_000;
/** One that was not there may be published at any time. */
const missingMs = 3_000;

/** Of which images spares are wanted: those of the configuration first, then what users ask for most. */
export class WantedImages {
  readonly #options: WantedImagesOptions;
  readonly #demand: Demand;
  readonly #found = new Map<string, { image: Spare['image'] | undefined; atMs: number }>();

  constructor(options: WantedImagesOptions) {
    this.#options = options;
    this.#demand = new Demand(options.config.demand);
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
      const image = await this.#find(reference, callerDn);
      const former = image && wanted.get(image.id);
      if (image && (!former || former.count < count))
        wanted.set(image.id, { image, callerDn, count });
    }
    const references = new Set(wishes.map(({ reference }) => reference));
    for (const reference of this.#found.keys())
      if (!references.has(reference)) this.#found.delete(reference);
    return [...wanted.values()];
  }

  async #find(reference: string, callerDn: string): Promise<Spare['image'] | undefined> {
    const { images, clock, log } = this.#options;
    const known = this.#found.get(reference);
    const keptMs = known?.image ? lookUpMs : missingMs;
    if (known && clock.now() - known.atMs < keptMs) return known.image;
    let image: Spare['image'] | undefined;
    try {
      const { id, metadata, parts } = await images.find(reference, callerDn);
      const why = whyNot(metadata);
      if (why === undefined) image = { id, metadata, parts };
      else if (!known) log.warn({ image: reference, why }, 'an image cannot have spares');
    } catch (error) {
      if (asGridError(error)?.row.retry === true) throw error;
      if (!known)
        log.warn({ image: reference, err: errorText(error) }, 'no spares of an image can be made');
    }
    this.#found.set(reference, { image, atMs: clock.now() });
    return image;
  }
}

/** Why no machine of an image can run before anybody has it. */
function whyNot({
  tsi,
  requirements: { network = 'none' },
  contextualisation,
}: ImageRecord['metadata']): string | undefined {
  if (tsi.transport !== 'channel') return 'its TSI cannot make its machine another one';
  if (network !== 'none') return 'network cards are given to owners';
  if (contextualisation?.nocloud === true) return 'its seed disk is read at the boot';
  return undefined;
}
