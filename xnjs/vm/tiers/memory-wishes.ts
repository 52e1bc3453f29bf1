import type { Driver } from '../target-system.js';
import type { Template } from './template.js';

/** An image that was started cold for want of memory, or is hot; by whose right, and for which hosts. */
export type Wish = {
  readonly image: Template['image'];
  readonly ownerDn: string;
  readonly driver: Driver;
  readonly place: string;
  readonly kind: string;
};

/** Of which images memory is to be saved. */
export class MemoryWishes {
  /** The last one last. */
  readonly #wishes = new Map<string, Wish>();

  /** A user has waited for a machine: comes before all others. */
  add(wish: Wish): void {
    this.delete(wish);
    this.#wishes.set(keyOf(wish), wish);
  }

  /** Nobody waits. */
  addQuietly(wish: Wish): void {
    if (this.#wishes.has(keyOf(wish))) return;
    const others = [...this.#wishes];
    this.#wishes.clear();
    this.#wishes.set(keyOf(wish), wish);
    for (const [key, other] of others) this.#wishes.set(key, other);
  }

  delete(wish: Wish): void {
    this.#wishes.delete(keyOf(wish));
  }

  newestFirst(): Wish[] {
    return [...this.#wishes.values()].reverse();
  }
}

function keyOf({ image, place, kind }: Wish): string {
  return [image.id, place, kind].join(' ');
}
