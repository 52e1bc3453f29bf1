import { randomUUID } from 'node:crypto';
import { systemClock, type Clock } from '#kernel/clock.js';
import type { Identity } from './identity.js';
import type { Preferences } from './preferences.js';

/** Spares a client to prove who it is with each request. */
export type Session = {
  readonly id: string;
  readonly identity: Identity;
  readonly peer: string;
  /** ms since the epoch; use does not extend it */
  readonly expiresAt: number;
  /** Stick until a later request overrides them. */
  preferences: Preferences;
};

export type SessionsOptions = {
  clock?: Clock;
  lifetimeMs?: number;
  /** Of one user from one address; the oldest of these gives way. */
  perPeer?: number;
  /** Of one user from everywhere. */
  perUser?: number;
};

/** Security sessions, in memory. Nobody's new session ends somebody else's. */
export class Sessions {
  readonly #clock: Clock;
  readonly #lifetimeMs: number;
  readonly #perPeer: number;
  readonly #perUser: number;
  /** Oldest first; those that no token bounds expire in that order. */
  readonly #byId = new Map<string, Session>();
  readonly #byDn = new Map<string, Set<Session>>();

  constructor(options: SessionsOptions = {}) {
    this.#clock = options.clock ?? systemClock;
    this.#lifetimeMs = options.lifetimeMs ?? 28_800_000;
    this.#perPeer = options.perPeer ?? 20;
    this.#perUser = options.perUser ?? 200;
  }

  get size(): number {
    return this.#byId.size;
  }

  create(identity: Identity, peer: string, preferences: Preferences): Session {
    const now = this.#clock.now();
    for (const session of this.#byId.values()) {
      if (session.expiresAt > now && session.identity.untilMs === undefined) break;
      if (session.expiresAt <= now) this.end(session);
    }
    const own = this.#byDn.get(identity.dn) ?? new Set();
    this.#makeRoom(own, peer);
    const expiresAt = Math.min(now + this.#lifetimeMs, identity.untilMs ?? Infinity);
    const session: Session = { id: randomUUID(), identity, peer, expiresAt, preferences };
    this.#byId.set(session.id, session);
    this.#byDn.set(identity.dn, own.add(session));
    return session;
  }

  find(id: string): Session | undefined {
    const session = this.#byId.get(id);
    return session && session.expiresAt > this.#clock.now() ? session : undefined;
  }

  remainingMs(session: Session): number {
    return Math.max(0, session.expiresAt - this.#clock.now());
  }

  end(session: Session): void {
    this.#byId.delete(session.id);
    const own = this.#byDn.get(session.identity.dn);
    own?.delete(session);
    if (own?.size === 0) this.#byDn.delete(session.identity.dn);
  }

  #makeRoom(own: ReadonlySet<Session>, peer: string): void {
    const here = [...own].filter((session) => session.peer === peer);
    const oldestHere = here[0];
    if (oldestHere && here.length >= this.#perPeer) this.end(oldestHere);
    const [oldest] = own;
    if (oldest && own.size >= this.#perUser) this.end(oldest);
  }
}
