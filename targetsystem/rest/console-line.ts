import type { Duplex } from 'node:stream';
import { destroySoon } from '#kernel/net/destroy-soon.js';
import { isOpen, type WebSocket } from '#kernel/http/websocket.js';
import type { Log } from '#kernel/log.js';
import { watchPermission, type Permission } from './permission.js';

/** Ends by RFC 6455: a server that goes away, a rule that was broken. */
const ends = { gone: 1001, rule: 1008 } as const;
/** What a client may leave unread: the console itself waits for nobody, or its log would have gaps. */
const maxUnreadBytes = 1024 * 1024;
/** The time a client has to say goodbye, too. */
const goodbyeMs = 2_000;

type Times = {
  readonly idleSeconds: number;
  readonly maxSeconds: number;
  readonly recheckSeconds: number;
};

/** A client of a console. */
export type Seat = {
  readonly dn: string;
  readonly writes: boolean;
  readonly permission: Permission;
  socket?: WebSocket;
  activeMs: number;
};

/** One machine's console, opened for one writer and any number of watchers; closed with the last of them. */
export class ConsoleLine {
  /** Rejects with the reason. */
  readonly opened: Promise<void>;
  readonly #times: Times;
  readonly #onEnd: () => void;
  readonly #seats = new Set<Seat>();
  #far: Duplex | undefined;
  #ended = false;

  /** @param onEnd it is of no use any more */
  constructor(opening: Promise<Duplex>, times: Times, onEnd: () => void) {
    this.#times = times;
    this.#onEnd = onEnd;
    this.opened = opening.then(
      (far) => this.#attach(far),
      (error: unknown) => {
        this.end('the console could not be opened');
        throw error;
      },
    );
    this.opened.catch(() => undefined); // those who have a seat hear of it
  }

  get seats(): readonly Seat[] {
    return [...this.#seats];
  }

  get hasWriter(): boolean {
    return this.seats.some(({ writes }) => writes);
  }

  reserve(dn: string, writes: boolean, permission: Permission): Seat {
    const seat: Seat = { dn, writes, permission, activeMs: performance.now() };
    this.#seats.add(seat);
    return seat;
  }

  /** The last one closes the console. */
  leave(seat: Seat): void {
    this.#seats.delete(seat);
    if (this.#seats.size === 0) this.end('nobody is there');
  }

  /** Lets a client with a seat take part, instead of whoever else types if it does. */
  join(seat: Seat, socket: WebSocket, log: Log): void {
    if (!this.#seats.has(seat) || this.#ended) {
      closeSoon(socket, ends.gone, 'the console has closed, or somebody else has taken over');
      return;
    }
    if (seat.writes)
      for (const other of this.#seats)
        if (other !== seat && other.writes) this.#dismiss(other, 'somebody else has taken over');
    seat.socket = socket;
    const startedMs = (seat.activeMs = performance.now());
    const watch = setInterval(
      () => this.#checkTimes(seat, startedMs),
      Math.min(this.#times.idleSeconds, this.#times.maxSeconds) * 250,
    );
    const unwatch = watchPermission({
      permission: seat.permission,
      everySeconds: this.#times.recheckSeconds,
      onLost: () => this.#dismiss(seat, 'not allowed any more'),
    });
    let sent = 0;
    socket.on('error', () => socket.terminate()); // breaks the protocol: `close` follows
    socket.on('message', (message) => {
      const data = message as Buffer; // as: by its binaryType, the default
      sent += data.length;
      this.#take(seat, data);
    });
    socket.once('close', (code, reason) => {
      clearInterval(watch);
      unwatch();
      this.leave(seat);
      const facts = { sent, ms: Math.round(performance.now() - startedMs), code };
      log.info({ ...facts, reason: reason.toString() }, 'console closed');
    });
    log.info('console opened');
  }

  /** Tells all who are there. May be repeated. */
  end(reason: string): void {
    if (this.#ended) return;
    this.#ended = true;
    for (const { socket } of this.#seats) if (socket) closeSoon(socket, ends.gone, reason);
    if (this.#far) destroySoon(this.#far);
    this.#onEnd();
  }

  #attach(far: Duplex): void {
    this.#far = far;
    if (this.#ended) {
      destroySoon(far);
      return;
    }
    far.on('data', (chunk: Buffer) => this.#show(chunk));
    far.on('drain', () => this.seats.forEach(({ socket }) => socket?.resume()));
    far.on('error', () => undefined); // `close` follows
    far.once('close', () => this.end('the console has closed: does the machine run?'));
  }

  #show(chunk: Buffer): void {
    for (const seat of this.#seats) {
      const { socket } = seat;
      if (!socket || !isOpen(socket)) continue;
      seat.activeMs = performance.now();
      socket.send(chunk, { binary: true });
      if (socket.bufferedAmount > maxUnreadBytes)
        this.#dismiss(seat, 'too slow: what is missing is in the log');
    }
  }

  #take(seat: Seat, data: Buffer): void {
    if (this.#ended || !this.#seats.has(seat)) return;
    if (!seat.writes) {
      this.#dismiss(seat, 'who watches does not type');
      return;
    }
    seat.activeMs = performance.now();
    if (this.#far?.write(data) === false) seat.socket?.pause();
  }

  #checkTimes(seat: Seat, startedMs: number): void {
    const now = performance.now();
    const { idleSeconds, maxSeconds } = this.#times;
    if (now - seat.activeMs >= idleSeconds * 1_000) this.#dismiss(seat, 'idle');
    else if (now - startedMs >= maxSeconds * 1_000) this.#dismiss(seat, 'over its time');
  }

  /** Types no more and gets no more, from now on. */
  #dismiss(seat: Seat, reason: string): void {
    if (seat.socket) closeSoon(seat.socket, ends.rule, reason);
    this.leave(seat);
  }
}

function closeSoon(socket: WebSocket, code: number, reason: string): void {
  socket.resume(); // or it would not see the answer
  socket.close(code, reason);
  const timer = setTimeout(() => socket.terminate(), goodbyeMs);
  socket.once('close', () => clearTimeout(timer));
}
