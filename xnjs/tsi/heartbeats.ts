import { performance } from 'node:perf_hooks';

/** Heartbeats of all links together, in a second; beyond that each link has fewer. */
const mostPerSecond = 1_000;
const tickMs = 20;
/** Of one turn of the event loop: requests of users come between. */
const mostAtOnce = 32;

export type HeartOptions = {
  /** At least; more where there are many links. */
  readonly everyMs: number;
  /** One that is unanswered for so long is the last. */
  readonly silenceMs: number;
  readonly beat: () => void;
  readonly onSilence: () => void;
};

/** Of one link. */
export type Heart = HeartOptions & {
  /** When the one that is unanswered was sent. */
  askedMs: number | undefined;
  hasStopped: boolean;
};

/**
 * The heartbeats of all links: as often as each is asked to, as long as all together do not take a processor for
 * themselves (ADR 038). One timer for all of them; links that came up together do not beat together.
 */
export class Heartbeats {
  /** By the tick that they are due at. */
  readonly #due = new Map<number, Heart[]>();
  #links = 0;
  #timer: NodeJS.Timeout | undefined;
  /** The tick that it is for; none is due before that. */
  #timerAt = 0;
  #isTurning = false;

  start(options: HeartOptions): Heart {
    const heart: Heart = { ...options, askedMs: undefined, hasStopped: false };
    this.#links += 1;
    this.#put(heart, this.#everyMs(heart) * Math.random());
    return heart;
  }

  /** Its last heartbeat was answered. */
  answered(heart: Heart): void {
    heart.askedMs = undefined;
  }

  stop(heart: Heart): void {
    if (heart.hasStopped) return;
    heart.hasStopped = true;
    this.#links -= 1;
  }

  #everyMs({ everyMs }: Heart): number {
    return Math.max(everyMs, (1_000 * this.#links) / mostPerSecond);
  }

  #put(heart: Heart, inMs: number): void {
    const tick = this.#now() + Math.max(1, Math.round(inMs / tickMs));
    const others = this.#due.get(tick);
    if (others) others.push(heart);
    else this.#due.set(tick, [heart]);
    if (!this.#isTurning) this.#wait(tick);
  }

  /** In ticks. */
  #now(): number {
    return Math.floor(performance.now() / tickMs);
  }

  #wait(until: number): void {
    if (this.#timer && this.#timerAt <= until) return;
    clearTimeout(this.#timer);
    this.#timerAt = until;
    // after what has come meanwhile was read: it may be the answers, and this process may have been held up
    const turn = (): void => void setImmediate(() => this.#turn());
    this.#timer = setTimeout(turn, (until - this.#now()) * tickMs).unref();
  }

  /** Looks at those that are due. */
  #turn(): void {
    this.#isTurning = true;
    const now = this.#now();
    let left = mostAtOnce;
    for (let tick = this.#timerAt; tick <= now && left > 0; tick += 1) {
      const hearts = this.#due.get(tick);
      if (!hearts) continue;
      for (let heart = hearts.pop(); heart; heart = left > 0 ? hearts.pop() : undefined) {
        this.#look(heart);
        left -= 1;
      }
      if (hearts.length === 0) this.#due.delete(tick);
    }
    this.#isTurning = false;
    this.#timer = undefined;
    if (this.#due.size === 0) return;
    let next = this.#timerAt;
    while (!this.#due.has(next)) next += 1;
    this.#wait(next);
  }

  #look(heart: Heart): void {
    if (heart.hasStopped) return;
    const now = performance.now();
    const { askedMs, silenceMs } = heart;
    if (askedMs !== undefined && now - askedMs >= silenceMs) {
      heart.onSilence();
      return;
    }
    if (askedMs === undefined) {
      heart.askedMs = now;
      heart.beat();
    }
    const untilSilence = (heart.askedMs ?? now) + silenceMs - now;
    this.#put(heart, Math.min(this.#everyMs(heart), untilSilence));
  }
}

/** Of this process: what is bounded is its share of a processor. */
export const heartbeats = new Heartbeats();
