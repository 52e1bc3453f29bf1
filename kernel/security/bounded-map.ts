/** A cache: forgets what has been in it longest. */
export class BoundedMap<Key, Value> extends Map<Key, Value> {
  readonly #limit: number;

  constructor(limit: number) {
    super();
    this.#limit = limit;
  }

  override set(key: Key, value: Value): this {
    const oldest = this.keys().next();
    if (this.size >= this.#limit && !this.has(key) && !oldest.done) this.delete(oldest.value);
    return super.set(key, value);
  }
}
