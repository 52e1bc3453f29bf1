import { z } from 'zod';
import { GridError } from '#kernel/errors.js';
import type { WebSocket } from '#kernel/http/websocket.js';
import type { Log } from '#kernel/log.js';
import type { TargetSystems } from '#xnjs/index.js';
import { ConsoleLine, type Seat } from './console-line.js';
import type { Permission } from './permission.js';

/** Bounds on open consoles. */
export const ConsoleConfig = z.strictObject({
  /** Open at once, of each user and of all. */
  perUser: z.int().min(0).default(8),
  total: z.int().min(0).default(128),
  /** Without a byte in either direction for so long it ends. */
  idleSeconds: z.number().positive().max(604_800).default(3_600),
  /** However busy, it ends after this time. */
  maxSeconds: z.number().positive().max(604_800).default(86_400),
  /** How often it is asked whether who is there may be. */
  recheckSeconds: z.number().positive().max(3_600).default(15),
  /** Where web pages with a console come from, besides this server: `https://portal.example`. */
  origins: z.array(z.url({ protocol: /^https?$/ })).default([]),
});
export type ConsoleConfig = z.output<typeof ConsoleConfig>;

export type ConsolesOptions = {
  readonly systems: Pick<TargetSystems, 'consoles' | 'subscribe'>;
  readonly config: ConsoleConfig;
};

type Wish = {
  readonly siteId: string;
  /** Whose it is. */
  readonly dn: string;
  /** Types, too; one at a time does. */
  readonly writes: boolean;
  /** Takes the console away from whoever types. */
  readonly force: boolean;
  /** Asked again while it is open. */
  readonly permission: Permission;
  /** The client has gone, or has its connection. */
  readonly signal: AbortSignal;
};

/** A console that waits for its client. */
export type OpenedConsole = { join(socket: WebSocket, log: Log): void };

/**
 * The consoles of machines that somebody looks at: each is opened once, for its one writer and any number
 * of watchers. Bounded, and gone with their machine.
 */
export class Consoles implements Disposable {
  readonly #options: ConsolesOptions;
  readonly #lines = new Map<string, ConsoleLine>();
  readonly #ignore: () => void;

  constructor(options: ConsolesOptions) {
    this.#options = options;
    this.#ignore = options.systems.subscribe((event) => {
      if (event.type !== 'ready') this.#lines.get(event.targetId)?.end('the machine has ended');
    });
  }

  get origins(): readonly string[] {
    return this.#options.config.origins;
  }

  /** How many look at one. */
  get size(): number {
    return this.#seats().length;
  }

  /** @throws `LIMIT_REACHED`; `CONFLICT` somebody types there, or there is no console */
  async open({ siteId, dn, writes, force, permission, signal }: Wish): Promise<OpenedConsole> {
    this.#checkLimits(dn);
    const line = this.#lines.get(siteId) ?? this.#openLine(siteId, force);
    if (writes && !force && line.hasWriter)
      throw new GridError(
        'CONFLICT',
        'somebody types at this console: force=true takes it over, watch=true looks on',
      );
    const seat = line.reserve(dn, writes, permission);
    const leave = (): void => line.leave(seat);
    try {
      await line.opened;
      signal.throwIfAborted();
    } catch (error) {
      leave();
      throw error;
    }
    // it may leave before it has its connection
    signal.addEventListener('abort', leave, { once: true });
    return {
      join: (socket, log) => {
        signal.removeEventListener('abort', leave);
        line.join(seat, socket, log.child({ siteId, dn, writes }));
      },
    };
  }

  [Symbol.dispose](): void {
    this.#ignore();
    for (const line of this.#lines.values()) line.end('the server closes');
  }

  #openLine(siteId: string, force: boolean): ConsoleLine {
    const { systems, config } = this.#options;
    const line: ConsoleLine = new ConsoleLine(systems.consoles.open(siteId, force), config, () => {
      if (this.#lines.get(siteId) === line) this.#lines.delete(siteId);
    });
    this.#lines.set(siteId, line);
    return line;
  }

  #seats(): Seat[] {
    return [...this.#lines.values()].flatMap((line) => line.seats);
  }

  #checkLimits(dn: string): void {
    const { perUser, total } = this.#options.config;
    const all = this.#seats();
    const mine = all.filter((seat) => seat.dn === dn).length;
    if (mine < perUser && all.length < total) return;
    const text = mine < perUser ? `${total} at this server` : `${perUser} of each user`;
    const details = { retryAfterSeconds: 30 };
    throw new GridError('LIMIT_REACHED', `too many open consoles: ${text}`, details);
  }
}
