/** What a few transfers at a time need. */
const mostSpare = 6;
/** Longer than from one chunk to the next; a server without transfers keeps no memory for them. */
const restMs = 5_000;

/** Memory of chunks between two transfers, kept for a moment: fresh memory costs more than what is written into it. */
class ChunkMemory {
  readonly #spare: Buffer[] = [];
  #rest: NodeJS.Timeout | undefined;

  take(size: number): Buffer {
    // the last that was used is the one that the processor still has near
    const at = this.#spare.findLastIndex(({ length }) => length === size);
    return this.#spare.splice(at, at < 0 ? 0 : 1)[0] ?? Buffer.allocUnsafeSlow(size);
  }

  giveBack(chunk: Buffer): void {
    if (this.#spare.length < mostSpare) this.#spare.push(chunk);
    this.#rest ??= setTimeout(() => (this.#spare.length = 0), restMs).unref();
    this.#rest.refresh();
  }
}

export const chunkMemory = new ChunkMemory();
