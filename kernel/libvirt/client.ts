import { systemClock, type Clock } from '#kernel/clock.js';
import { asGridError, errorText } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import { linkSignals, startDeadline } from '#kernel/net/deadline.js';
import type { CallOptions, FinishedCall } from './calls.js';
import { Connection } from './connection.js';
import { LibvirtError, unavailable } from './errors.js';
import { toLifecycle, type DomainEvent, type EventName, type Lifecycle } from './events.js';
import type { KeepAliveOptions } from './keep-alive.js';
import type { Args, ProcedureName, Result, StreamProcedureName } from './procedures.js';
import { openSession, watch } from './session.js';
import type { Command } from './ssh.js';
import type { LibvirtStream } from './stream.js';
import { dial } from './transport.js';
import { parseUri, type LibvirtUri, type SshAddress } from './uri.js';

export type LibvirtClientOptions = {
  /** `qemu+unix:///system?socket=/path`, `lxc:///system`, `qemu+tls://host/system?pkipath=/path`, … */
  readonly uri: string;
  readonly log: Log;
  readonly clock?: Clock;
  /** For dialling, authentication and opening, together. */
  readonly connectTimeoutMs?: number;
  /** Of calls that name none; also the wait for a stream's confirmed end. */
  readonly callTimeoutMs?: number;
  readonly keepAlive?: KeepAliveOptions;
  /** Waits between attempts, doubled from the first to the last. */
  readonly reconnect?: { readonly minDelayMs: number; readonly maxDelayMs: number };
  /** Less than the daemon's `max_client_requests`, which is 5 where nobody has raised it. */
  readonly maxInFlight?: number;
  /** Registered again at each connection. */
  readonly events?: readonly EventName[];
  /** Told of each call. */
  readonly onCall?: (call: FinishedCall) => void;
  /** What the ssh transport runs. */
  readonly command?: (address: SshAddress, driverUri: string) => Command;
};

export type ConnectionChange =
  { readonly state: 'up' } | { readonly state: 'down'; readonly cause: LibvirtError };

const defaults = {
  clock: systemClock,
  connectTimeoutMs: 10_000,
  callTimeoutMs: 30_000,
  keepAlive: { intervalMs: 5_000, count: 3 },
  reconnect: { minDelayMs: 100, maxDelayMs: 5_000 },
  maxInFlight: 4,
  events: ['lifecycle'],
} as const satisfies Partial<LibvirtClientOptions>;

type Listeners<T> = Set<(value: T) => void>;

/**
 * One driver of one libvirt daemon. It connects by itself, and again after each loss; meanwhile calls fail
 * at once with `HYPERVISOR_UNAVAILABLE`. At `up` events are registered; what happened before is unknown:
 * list the domains and compare.
 */
export class LibvirtClient implements AsyncDisposable {
  readonly #options: LibvirtClientOptions &
    Required<Omit<LibvirtClientOptions, 'command' | 'onCall'>>;
  readonly #uri: LibvirtUri;
  readonly #abort = new AbortController();
  readonly #changeListeners: Listeners<ConnectionChange> = new Set();
  readonly #eventListeners: Listeners<DomainEvent> = new Set();
  readonly #carriers = new Set<Connection>();
  #connection: Connection | undefined;
  #lastFailure = unavailable('not connected to libvirt yet');
  #running: Promise<void> | undefined;
  #closing: Promise<void> | undefined;

  /** @throws {@link LibvirtError} `CONFIG_INVALID` for a URI that cannot be */
  constructor(options: LibvirtClientOptions) {
    this.#options = { ...defaults, ...options };
    this.#uri = parseUri(options.uri);
  }

  /** A client whose first connection must succeed. @throws its failure */
  static async connect(
    options: LibvirtClientOptions,
    { signal }: { readonly signal?: AbortSignal } = {},
  ): Promise<LibvirtClient> {
    const client = new LibvirtClient(options);
    client.#running = client.#run(await client.#establish(signal));
    return client;
  }

  /** Connects in the background, for as long as it takes. */
  start(): void {
    this.#running ??= this.#run();
  }

  get connected(): boolean {
    return this.#connection !== undefined;
  }

  /** Resolves once connected. @throws the reason of `signal`, or of a client that was closed */
  async ready(signal?: AbortSignal): Promise<void> {
    using until = linkSignals(this.#abort.signal, signal);
    until.signal.throwIfAborted();
    if (this.connected) return;
    await new Promise<void>((resolve, reject) => {
      const stop = this.onConnectionChange(({ state }) => {
        if (state === 'down') return;
        stop();
        resolve();
      });
      const abort = (): void => {
        stop();
        reject(until.signal.reason as Error);
      };
      until.signal.addEventListener('abort', abort, { once: true });
    });
  }

  /**
   * @throws {@link LibvirtError} `HYPERVISOR_UNAVAILABLE` at once while disconnected, and at the deadline;
   * `DOMAIN_UNKNOWN` and `HYPERVISOR_FAILED` are libvirt's answers
   */
  async call<N extends ProcedureName>(
    name: N,
    args: Args<N>,
    options?: CallOptions,
  ): Promise<Result<N>> {
    return await this.#counted(name, () => this.#current().call(name, args, options));
  }

  /**
   * Gives up the connection with the calls that are stuck in it, and makes a new one.
   * @throws when there is none in time; it is tried on
   */
  async renew(timeoutMs: number): Promise<void> {
    const old = this.#connection;
    old?.destroy(unavailable('the connection was given up for a new one'));
    await old?.end;
    await this.ready(AbortSignal.timeout(timeoutMs));
  }

  /**
   * On a connection of its own, which is given up with it: for a call that may get stuck in the daemon, where it would
   * keep others from being carried out.
   * @throws as {@link call}
   */
  async callApart<N extends ProcedureName>(
    name: N,
    args: Args<N>,
    options: CallOptions = {},
  ): Promise<Result<N>> {
    this.#current();
    using until = linkSignals(this.#abort.signal, options.signal);
    const { signal } = until;
    const carrier = await this.#open(options.signal);
    try {
      return await this.#counted(name, () => carrier.call(name, args, { ...options, signal }));
    } finally {
      carrier.destroy(unavailable('the call has ended'));
    }
  }

  /** The stream has a connection of its own: a slow reader holds up nobody else. Close it, or end it. */
  async openStream<N extends StreamProcedureName>(
    name: N,
    args: Args<N>,
    options: CallOptions = {},
  ): Promise<LibvirtStream> {
    this.#current();
    const carrier = await this.#open(options.signal);
    this.#carriers.add(carrier);
    void carrier.end.then(() => this.#carriers.delete(carrier));
    try {
      return await carrier.openStream(name, args, options);
    } catch (error) {
      await carrier.close();
      throw error;
    }
  }

  /** Of changes from now on. @returns a function that ends the subscription, as all of these do */
  onConnectionChange(listener: (change: ConnectionChange) => void): () => void {
    return subscribe(this.#changeListeners, listener);
  }

  /** Of the events that the options name. */
  onEvent(listener: (event: DomainEvent) => void): () => void {
    return subscribe(this.#eventListeners, listener);
  }

  onLifecycle(listener: (lifecycle: Lifecycle) => void): () => void {
    return this.onEvent((event) => {
      if (event.name === 'lifecycle') listener(toLifecycle(event.message));
    });
  }

  /** Calls in flight and streams fail; nothing is told to the listeners. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #close(): Promise<void> {
    this.#abort.abort(unavailable('the libvirt client was closed'));
    this.#changeListeners.clear();
    this.#eventListeners.clear();
    const carriers = [...this.#carriers].map((carrier) => carrier.close());
    await Promise.all([this.#connection?.close(), ...carriers]);
    await this.#running;
  }

  async #counted<T>(procedure: ProcedureName, work: () => Promise<T>): Promise<T> {
    const { onCall } = this.#options;
    if (!onCall) return await work();
    const beganMs = performance.now();
    const tell = (code?: string): void =>
      onCall({
        procedure,
        ms: performance.now() - beganMs,
        ...(code !== undefined && { code }),
      });
    try {
      const result = await work();
      tell();
      return result;
    } catch (error) {
      tell(asGridError(error)?.code ?? 'ABORTED');
      throw error;
    }
  }

  #current(): Connection {
    if (this.#connection) return this.#connection;
    const { signal } = this.#abort;
    const cause = signal.aborted ? (signal.reason as LibvirtError) : this.#lastFailure;
    throw unavailable(`libvirt is unavailable: ${cause.message}`, this.#peer, cause);
  }

  get #peer() {
    return { peer: this.#options.uri };
  }

  async #run(first?: Connection): Promise<void> {
    const { clock, reconnect } = this.#options;
    const { signal } = this.#abort;
    let delayMs = reconnect.minDelayMs;
    for (let next = first; !signal.aborted; next = undefined) {
      const connection =
        next ?? (await this.#establish().catch((error: unknown) => this.#failed(error)));
      if (connection) {
        delayMs = reconnect.minDelayMs;
        await this.#serve(connection);
      }
      await clock.sleep(delayMs, signal).catch(() => undefined); // closed: the loop ends
      delayMs = Math.min(2 * delayMs, reconnect.maxDelayMs);
    }
  }

  async #serve(connection: Connection): Promise<void> {
    const { log } = this.#options;
    this.#connection = connection;
    log.info(this.#peer, 'connected to libvirt');
    this.#tell(this.#changeListeners, { state: 'up' });
    const cause = await connection.end;
    this.#connection = undefined;
    this.#lastFailure = cause;
    if (this.#abort.signal.aborted) return;
    log.warn({ ...this.#peer, err: cause }, 'connection to libvirt lost');
    for (const carrier of this.#carriers) carrier.destroy(cause);
    this.#tell(this.#changeListeners, { state: 'down', cause });
  }

  #failed(error: unknown): undefined {
    const failure =
      error instanceof LibvirtError ? error : unavailable(errorText(error), {}, error);
    const isNews = failure.message !== this.#lastFailure.message;
    this.#lastFailure = failure;
    if (isNews && !this.#abort.signal.aborted)
      this.#options.log.warn({ ...this.#peer, err: failure }, 'no connection to libvirt');
  }

  /** The connection for calls and events. */
  #establish(caller?: AbortSignal): Promise<Connection> {
    return this.#open(caller, (connection, signal) => watch(connection, this.#options, { signal }));
  }

  /** A connection with an open driver, within the deadline or not at all. */
  async #open(
    caller?: AbortSignal,
    prepare?: (connection: Connection, signal: AbortSignal) => Promise<void>,
  ): Promise<Connection> {
    const { connectTimeoutMs: timeoutMs, command } = this.#options;
    using deadline = startDeadline(timeoutMs, () =>
      unavailable('libvirt did not open in time', { timeoutMs }),
    );
    using first = linkSignals(this.#abort.signal, deadline.signal, caller);
    const { signal } = first;
    let connection: Connection | undefined;
    try {
      connection = new Connection(await dial(this.#uri, { signal, command }), {
        ...this.#options,
        onEvent: (event) => this.#tell(this.#eventListeners, event),
      });
      await openSession(connection, this.#uri.driverUri, { signal });
      await prepare?.(connection, signal);
      return connection;
    } catch (error) {
      connection?.destroy(unavailable('not opened', {}, error));
      throw error;
    }
  }

  /** A listener that throws is a bug of ours: it must not end the connection. */
  #tell<T>(listeners: Listeners<T>, value: T): void {
    for (const listener of [...listeners]) {
      try {
        listener(value);
      } catch (err) {
        this.#options.log.error({ ...this.#peer, err }, 'a listener failed');
      }
    }
  }
}

function subscribe<T>(listeners: Listeners<T>, listener: (value: T) => void): () => void {
  // A wrapper of its own, so that the same function may subscribe twice
  const own = (value: T): void => listener(value);
  listeners.add(own);
  return () => void listeners.delete(own);
}
