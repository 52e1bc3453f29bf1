/**
 * What is under way: few things at a time, each for a short while. Not a `Set`, which makes itself a new table every few
 * of them: each table knows the next one, and once V8 takes one for long-lived, all that was in later ones is too.
 */
export class Bag<T> implements Iterable<T> {
  readonly #things: T[] = [];

  get size(): number {
    return this.#things.length;
  }

  add(thing: T): void {
    this.#things.push(thing);
  }

  /** Fine if it is not there. */
  delete(thing: T): void {
    const at = this.#things.indexOf(thing);
    const last = at < 0 ? undefined : this.#things.pop();
    if (last !== undefined && at < this.#things.length) this.#things[at] = last;
  }

  /** Over those that are there now, whatever happens to them meanwhile. */
  [Symbol.iterator](): Iterator<T> {
    return [...this.#things].values();
  }
}
