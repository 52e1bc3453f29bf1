import { createHash } from 'node:crypto';
import type { TargetSystem } from './target-system.js';

type Image = TargetSystem['image'];

/** What a record says of its image, once for all records that say the same: thousands may be made from one. */
export class SharedImages {
  /** By what they say. */
  readonly #known = new Map<string, WeakRef<Image>>();
  readonly #shared = new WeakSet<Image>();
  /** Images that nobody speaks of any more are looked for beyond so many. */
  #sweepAt = 100;

  share<T extends { readonly image: Image }>(record: T): T {
    if (this.#shared.has(record.image)) return record;
    const key = createHash('sha256').update(JSON.stringify(record.image)).digest('base64');
    const known = this.#known.get(key)?.deref();
    if (known) return { ...record, image: known };
    this.#known.set(key, new WeakRef(record.image));
    this.#shared.add(record.image);
    this.#sweep();
    return record;
  }

  #sweep(): void {
    if (this.#known.size < this.#sweepAt) return;
    for (const [key, image] of this.#known) if (!image.deref()) this.#known.delete(key);
    this.#sweepAt = 2 * this.#known.size + 100;
  }
}
