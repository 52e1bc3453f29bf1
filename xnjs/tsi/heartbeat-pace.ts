/** Heartbeats of all links together, in a second; beyond that each link has fewer. */
const mostPerSecond = 1_000;

/**
 * How often links send heartbeats: as often as each is asked to, as long as all together do not take a
 * processor for themselves (ADR 038).
 */
export class HeartbeatPace {
  #links = 0;

  /** @returns when it has ended */
  join(): () => void {
    this.#links += 1;
    return () => void (this.#links -= 1);
  }

  intervalMs(wantedMs: number): number {
    return Math.max(wantedMs, (1_000 * this.#links) / mostPerSecond);
  }
}

/** Of this process: what is bounded is its share of a processor. */
export const heartbeatPace = new HeartbeatPace();
