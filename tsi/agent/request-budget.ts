/** What all workers together may hold of requests that are not answered, and how many workers there are. */
const maxHeldBytes = 64 * 1024 * 1024;
const maxWorkers = 128;

type Holder = { bytes: number; readonly end: () => void };

/**
 * Keeps workers from filling the memory of the machine between them. Who holds most has to go: a client
 * that behaves is not made to pay for one that does not.
 */
export class RequestBudget {
  readonly #holders = new Set<Holder>();
  #total = 0;

  /** @returns `undefined` where there are too many workers already */
  join(end: () => void): RequestShare | undefined {
    if (this.#holders.size >= maxWorkers) return undefined;
    const holder: Holder = { bytes: 0, end };
    this.#holders.add(holder);
    const set = (bytes: number): void => {
      if (!this.#holders.has(holder)) return;
      this.#total += bytes - holder.bytes;
      holder.bytes = bytes;
    };
    return {
      hold: (bytes) => {
        set(bytes);
        if (this.#total > maxHeldBytes) this.#endLargest();
      },
      leave: () => {
        set(0);
        this.#holders.delete(holder);
      },
    };
  }

  #endLargest(): void {
    let largest: Holder | undefined;
    for (const holder of this.#holders)
      if (!largest || holder.bytes > largest.bytes) largest = holder;
    largest?.end();
  }
}

export type RequestShare = {
  /** How much a worker holds now. */
  readonly hold: (bytes: number) => void;
  readonly leave: () => void;
};
