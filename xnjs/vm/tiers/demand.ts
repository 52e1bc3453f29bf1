import type { SparesConfig } from './config.js';

type Request = { readonly imageId: string; readonly callerDn: string; readonly atMs: number };

/** Of an image, by whose right it was last asked for. */
export type Demanded = {
  readonly imageId: string;
  readonly callerDn: string;
  readonly count: number;
};

/** A flood of requests is no reason to remember each. */
const mostRequests = 10_000;

/** Which images users have asked for lately. Not durable: it is learnt again soon. */
export class Demand {
  readonly #config: SparesConfig['demand'];
  #requests: Request[] = [];

  constructor(config: SparesConfig['demand']) {
    this.#config = config;
  }

  note(imageId: string, callerDn: string, atMs: number): void {
    if (this.#config.max === 0) return;
    this.#requests.push({ imageId, callerDn, atMs });
    if (this.#requests.length > mostRequests) this.#requests.shift();
  }

  /** How many spares of each would have been of use, those that were asked for most first. */
  wanted(nowMs: number): Demanded[] {
    const { max, requests, withinSeconds } = this.#config;
    this.#requests = this.#requests.filter(({ atMs }) => atMs > nowMs - withinSeconds * 1_000);
    const byImage = new Map<string, Request[]>();
    for (const request of this.#requests) {
      const others = byImage.get(request.imageId);
      if (others) others.push(request);
      else byImage.set(request.imageId, [request]);
    }
    return [...byImage.values()]
      .flatMap((all) => {
        const last = all.at(-1);
        const count = Math.min(max, Math.floor(all.length / requests));
        return last && count > 0
          ? [{ imageId: last.imageId, callerDn: last.callerDn, count, asked: all.length }]
          : [];
      })
      .toSorted((a, b) => b.asked - a.asked)
      .map(({ imageId, callerDn, count }) => ({ imageId, callerDn, count }));
  }
}
