import type { ImageRecord } from '#imagerepo/contract.js';
import type { Clock } from '#kernel/clock.js';
import { asGridError, errorText } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import type { ImageSource } from '../image-source.js';
import type { MachineSpec } from '../target-system.js';

export type ImageLookupsOptions = {
  readonly images: Pick<ImageSource, 'find'>;
  readonly clock: Clock;
  readonly log: Log;
};

type Asked = { readonly reference: string; readonly callerDn: string };

/** Images are looked up again: there may be a newer upload of that name, or none any more. */
const lookUpMs = 30_000;
/** One that was not there may be published at any time. */
const missingMs = 3_000;

/** What images are at present that somebody named, by id, name or `name:version`. */
export class ImageLookups {
  readonly #options: ImageLookupsOptions;
  /** By whom and what is asked for. */
  readonly #found = new Map<string, { image: MachineSpec['image'] | undefined; atMs: number }>();

  constructor(options: ImageLookupsOptions) {
    this.#options = options;
  }

  /**
   * @returns `undefined`: there is none, or no machine of it can run before anybody has it
   * @throws when the image repository does not answer
   */
  async find(reference: string, callerDn: string): Promise<MachineSpec['image'] | undefined> {
    const { images, clock, log } = this.#options;
    const key = keyOf({ reference, callerDn });
    const known = this.#found.get(key);
    const keptMs = known?.image ? lookUpMs : missingMs;
    if (known && clock.now() - known.atMs < keptMs) return known.image;
    let image: MachineSpec['image'] | undefined;
    try {
      const { id, metadata, parts } = await images.find(reference, callerDn);
      const why = whyNot(metadata);
      if (why === undefined) image = { id, metadata, parts };
      else if (!known)
        log.warn({ image: reference, why }, 'no machine of an image can run before anybody has it');
    } catch (error) {
      if (asGridError(error)?.row.retry === true) throw error;
      if (!known)
        log.warn({ image: reference, err: errorText(error) }, 'an image cannot be looked up');
    }
    this.#found.set(key, { image, atMs: clock.now() });
    return image;
  }

  /** Of others nobody asks any more. */
  keep(asked: readonly Asked[]): void {
    const keys = new Set(asked.map(keyOf));
    for (const key of this.#found.keys()) if (!keys.has(key)) this.#found.delete(key);
  }
}

/** What one may see another may not. */
function keyOf({ reference, callerDn }: Asked): string {
  return JSON.stringify([reference, callerDn]);
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
