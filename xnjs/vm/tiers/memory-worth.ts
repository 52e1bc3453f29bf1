import type { MachineSpec } from '../target-system.js';
import { HotImages, surplusOf, type HotImage, type HotImagesOptions } from './hot-images.js';
import type { Template } from './template.js';

/** Which memory is worth its disk: what the configuration names, then what users have had last. */
export class MemoryWorth {
  readonly #options: HotImagesOptions;
  readonly #hot: HotImages;
  /** Places of images in the configuration, by id, as far as they are known. */
  #ranks: ReadonlyMap<string, number> = new Map();
  /** From which memory machines were started, and when, as far as it is not stored yet. */
  readonly #used = new Map<string, number>();

  constructor(options: HotImagesOptions) {
    this.#options = options;
    this.#hot = new HotImages(options);
  }

  /** What is to be saved before a user waits for it. @throws when the image repository does not answer */
  async hot(saved: Iterable<Template>): Promise<HotImage[]> {
    if (this.#options.config.maxImages === 0) return [];
    const hot = await this.#hot.list(saved);
    this.#ranks = new Map(
      hot.flatMap(({ image, rank }) => (rank === undefined ? [] : [[image.id, rank] as const])),
    );
    return hot;
  }

  /** Whether the image is what its name stands for at present. @throws as `hot` does */
  async isNewest(image: MachineSpec['image'], callerDn: string): Promise<boolean> {
    return await this.#hot.isNewest(image, callerDn);
  }

  noteUse(id: string): void {
    this.#used.set(id, this.#options.clock.now());
  }

  /** With what is not stored yet: a server that comes later knows it, too. */
  takeUses(templates: Iterable<Template>): Template[] {
    const changed = [...templates].flatMap((template) => {
      const usedMs = this.#used.get(template.id);
      return usedMs === undefined ? [] : [{ ...template, usedMs }];
    });
    for (const { id } of changed) this.#used.delete(id);
    return changed;
  }

  /** Those that are too many. */
  surplus(alike: readonly Template[]): ReadonlySet<string> {
    const kept = alike.map(({ id, image, parameters, createdMs, usedMs = createdMs }) => ({
      ...{ id, memoryMiB: parameters.memoryMiB, rank: this.#ranks.get(image.id) },
      usedMs: this.#used.get(id) ?? usedMs,
    }));
    return surplusOf(kept, this.#options.config);
  }
}
