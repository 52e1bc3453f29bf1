type Closer = () => unknown;

/**
 * Owns what was opened and closes it newest first. Closing twice is fine; a closer that fails does
 * not keep the others from running, the failures are thrown together at the end.
 */
export class Scope implements AsyncDisposable {
  #closers: Closer[] = [];
  #closing: Promise<void> | undefined;

  get closed(): boolean {
    return this.#closing !== undefined;
  }

  /** Registers a closer. In a scope that is already closed it runs at once. */
  defer(closer: Closer): void {
    if (this.closed) void Promise.resolve().then(closer);
    else this.#closers.push(closer);
  }

  /** Registers a disposable and hands it back. */
  use<T extends AsyncDisposable | Disposable>(resource: T): T {
    this.defer(() =>
      Symbol.asyncDispose in resource
        ? resource[Symbol.asyncDispose]()
        : resource[Symbol.dispose](),
    );
    return resource;
  }

  close(): Promise<void> {
    this.#closing ??= this.#closeAll();
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #closeAll(): Promise<void> {
    const failures: unknown[] = [];
    for (let closer = this.#closers.pop(); closer; closer = this.#closers.pop()) {
      try {
        await closer();
      } catch (error) {
        failures.push(error);
      }
    }
    if (failures.length === 1) throw failures[0];
    if (failures.length > 1) throw new AggregateError(failures, 'several resources did not close');
  }
}
