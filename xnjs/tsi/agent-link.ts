import { randomUUID } from 'node:crypto';
import type { ClientHttp2Stream } from 'node:http2';
import type { Duplex } from 'node:stream';
import { errorText } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import { destroySoon } from '#kernel/net/destroy-soon.js';
import { linkSignals, orAborted, withDeadline } from '#kernel/net/deadline.js';
import type { Half } from '#tsi/protocol/channel-line.js';
import { decodeEnrolmentAnswer } from '#tsi/protocol/enrolment.js';
import { TsiError } from '#tsi/protocol/error.js';
import { decodeFacts, type AgentFacts } from '#tsi/protocol/facts.js';
import type { MachineClock } from '#tsi/protocol/machine-clock.js';
import type { MachineIdentity } from '#tsi/protocol/machine-identity.js';
import {
  decodeSetupReport,
  type MachineSetup,
  type SetupReport,
} from '#tsi/protocol/machine-setup.js';
import { ExitStream } from './exit-stream.js';
import { heartbeats } from './heartbeats.js';
import { forwarded, forwardHeaders } from './forward-stream.js';
import { ChannelsUnknown, openChannel } from './raw-channels.js';
import { answered, text, unlessUnknown } from './link-answers.js';
import type { AgentLinkOptions, LinkState } from './agent-link-options.js';
import { LinkConnection } from './link-connection.js';
import { LinkGreeting } from './link-greeting.js';
import { admissions, HungUp, hangUpMs, waitAfter } from './link-pace.js';
import { silenceOf } from './silence.js';
import type { TsiIdentity, TsiTransport, WorkerChannels } from './tsi.js';

/** A session is begun in a fraction of a millisecond, and takes a hundred times the memory of what it is begun from. */
const defaultRestMs = 500;
/** For an agent that was up, and answers in milliseconds if it lives: what does not was lost on the way. */
const againMs = 2_000;
const callMs = 10_000;
/** Nobody waits for the machine, and it may clear its memory. */
const rehearsalMs = 90_000;
/** It may make file systems. */
const setupMs = 90_000;
/** Longer than the agent tries to reach a service. */
const forwardMs = 30_000;

/**
 * The server's end of the agent link (ADR 004): HTTP/2 over what `dial` gives, watched by pings and made anew
 * whenever it is lost. A connection counts only once the agent's SETTINGS have come, for bytes of an earlier one
 * may lie in the channel.
 */
export class AgentLink implements AsyncDisposable {
  readonly #options: AgentLinkOptions;
  readonly #closing = new AbortController();
  readonly #listeners = new Set<(state: LinkState) => void>();
  /** Absent: nobody wants to know. */
  #exits: ExitStream | undefined;
  readonly #running: Promise<void>;
  #connection: LinkConnection | undefined;
  /** Connections of workers; they go with the link's own, which is the one that is watched. */
  readonly #channels = new Set<Duplex>();
  #channelsUnknown = false;
  /** Of this connection. */
  #greeting = new LinkGreeting(undefined);
  #state: LinkState = 'connecting';
  #sinceMs: number;
  #heartbeatMs: number | undefined;
  #failure = 'not connected yet';

  constructor(options: AgentLinkOptions) {
    this.#options = options;
    this.#sinceMs = options.clock.now();
    this.#running = this.#run();
  }

  /** Made when there is something to tell: most links of thousands have nothing. */
  get #log(): Log {
    return this.#options.log.child({ part: 'xnjs.tsi', link: this.#options.name });
  }

  /** `down`: it was up, and is being called again. */
  get state(): LinkState {
    return this.#state;
  }

  /** When the state was entered, and when the agent last proved to be alive; ms since the epoch. */
  get times(): { readonly sinceMs: number; readonly heartbeatMs?: number } {
    return {
      sinceMs: this.#sinceMs,
      ...(this.#heartbeatMs !== undefined && { heartbeatMs: this.#heartbeatMs }),
    };
  }

  /** @returns a function that ends the subscription */
  onChange(listener: (state: LinkState) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** @throws `TSI_UNAVAILABLE`, `TSI_PROTOCOL` */
  async facts(signal?: AbortSignal): Promise<AgentFacts> {
    return decodeFacts(await this.#call('GET', '/facts', signal));
  }

  /**
   * Called with the id of each job, or the pid of each run on the login node, when it ends. What ends while
   * the link is down is not told: the status says it.
   * @returns a function that ends the subscription
   */
  onExit(listener: (bssId: string) => void): () => void {
    const exits = (this.#exits ??= new ExitStream(this.#options.clock, this.#log));
    const end = exits.add(listener);
    if (this.#connection) exits.follow(this.#connection);
    return end;
  }

  /** @see TsiTransport.forward */
  forward(identity: TsiIdentity, service: string, signal: AbortSignal): Promise<Duplex> {
    const late = (): Error => this.#unavailable('no answer in time');
    return withDeadline(forwardMs, [signal], late, async (until) => {
      const stream = this.#request('POST', '/forward', forwardHeaders(identity, service));
      try {
        return await orAborted(forwarded(stream), until);
      } catch (error) {
        destroySoon(stream);
        throw error instanceof TsiError ? error : this.#unavailable(error);
      }
    });
  }

  /** Makes its machine another one; resolves when it is. @throws `TSI_UNAVAILABLE` */
  async assume(identity: MachineIdentity, signal?: AbortSignal): Promise<void> {
    const timeoutMs = identity.isRehearsal === true ? rehearsalMs : callMs;
    await this.#call('POST', '/identity', signal, JSON.stringify(identity), { timeoutMs });
  }

  /** Whether its machine has become another one by what it was greeted with on this connection. */
  get isAnother(): boolean {
    return this.#greeting.isAnother;
  }

  /** Has it prove once more which machine it is. @throws as `admit` does */
  async prove(): Promise<void> {
    await this.#admit(this.#current());
  }

  async #admit(connection: LinkConnection): Promise<void> {
    const greeting = this.#greeting;
    await this.#options.admit?.(async (message) => {
      const answer = greeting.take(message);
      if (answer) return answer;
      const body = JSON.stringify(message);
      const json = await unlessUnknown(
        this.#call('POST', '/enrolment', undefined, body, { connection }),
      );
      return json === undefined ? undefined : decodeEnrolmentAnswer(json);
    }, greeting.asked);
  }

  /**
   * Gives its machine what its owner has asked for; resolves when that is done, or what cannot be is told.
   * @returns `undefined`: such an agent does not know the message
   * @throws `TSI_UNAVAILABLE`, `TSI_PROTOCOL`
   */
  async setUp(setup: MachineSetup, signal?: AbortSignal): Promise<SetupReport | undefined> {
    const body = JSON.stringify(setup);
    const options = { timeoutMs: setupMs };
    const json = await unlessUnknown(this.#call('POST', '/setup', signal, body, options));
    return json === undefined ? undefined : decodeSetupReport(json);
  }

  /** Tells a machine that stood still what time it is. @throws `TSI_UNAVAILABLE` also where it refuses */
  async catchUp(clock: MachineClock, signal?: AbortSignal): Promise<void> {
    await this.#call('POST', '/clock', signal, JSON.stringify(clock));
  }

  /** Asks the agent to end, and with it its machine; resolves when it has agreed. */
  async shutdown(signal?: AbortSignal): Promise<void> {
    await this.#call('POST', '/shutdown', signal);
    const connection = this.#connection;
    setImmediate(() => connection?.leave());
  }

  /** Workers on this link, whatever connection it has at the time. */
  transport(): TsiTransport {
    return {
      name: `channel ${this.#options.name}`,
      forward: (identity, service, signal) => this.forward(identity, service, signal),
      open: async (signal) => {
        const connection = this.#current();
        if (this.#options.dialsMany && !this.#channelsUnknown)
          try {
            return await this.#openChannels(connection, signal);
          } catch (error) {
            if (!(error instanceof ChannelsUnknown)) throw this.#unavailable(error);
            this.#channelsUnknown = true;
          }
        return await this.#openStreams(signal);
      },
    };
  }

  async #openChannels(connection: LinkConnection, outer: AbortSignal): Promise<WorkerChannels> {
    const worker = randomUUID();
    const failed = new AbortController();
    using until = linkSignals(outer, failed.signal);
    const open = async (half: Half): Promise<Duplex> => {
      const channel = await openChannel(this.#options.dial, { worker, half }, until.signal);
      this.#channels.add(channel);
      channel.once('close', () => this.#channels.delete(channel));
      // the connection it was opened beside has ended meanwhile, or the other half has failed
      if (connection !== this.#connection || until.signal.aborted) destroySoon(channel);
      return channel;
    };
    try {
      const [command, data] = await Promise.all([open('command'), open('data')]);
      return { command, data };
    } catch (error) {
      failed.abort(error);
      throw error;
    }
  }

  async #openStreams(signal: AbortSignal): Promise<WorkerChannels> {
    const id = randomUUID();
    const command = this.#request('POST', `/worker/${id}/command`);
    const data = this.#request('POST', `/worker/${id}/data`);
    try {
      await orAborted(Promise.all([answered(command), answered(data)]), signal);
      return { command, data };
    } catch (error) {
      destroySoon(command);
      destroySoon(data);
      throw this.#unavailable(error);
    }
  }

  async close(): Promise<void> {
    this.#closing.abort(this.#unavailable('the link was closed'));
    this.#listeners.clear();
    this.#exits?.clear();
    this.#connection?.destroy();
    await this.#running;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #run(): Promise<void> {
    const { signal } = this.#closing;
    for (let failures = 0; !signal.aborted;) {
      try {
        const connection = await this.#connect(signal, failures);
        failures = 0;
        await this.#watch(connection);
        await this.#pause(hangUpMs);
      } catch (error) {
        this.#failure = errorText(error);
        this.#log.debug({ reason: this.#failure }, 'the agent does not answer yet');
        const waitMs = waitAfter(failures);
        failures += 1;
        await this.#pause(Math.max(waitMs, error instanceof HungUp ? error.waitMs : 0));
      }
    }
  }

  async #pause(ms: number): Promise<void> {
    await this.#options.clock.sleep(ms, this.#closing.signal).catch(() => undefined);
  }

  /** An agent that was up and is silent has not seen our last connection end: it is told so soon. */
  async #connect(outer: AbortSignal, failures: number): Promise<LinkConnection> {
    const late = (): Error => this.#unavailable('the agent is silent');
    const { dial, greet, handshakeMs = 10_000, restMs = defaultRestMs } = this.#options;
    const again = this.#state === 'down' && failures === 0;
    const answerMs = again ? Math.min(againMs, handshakeMs) : handshakeMs;
    const greeting = new LinkGreeting(greet?.());
    this.#greeting = greeting;
    const connection = await withDeadline(answerMs, [outer], late, async (signal) => {
      const opened = new LinkConnection(await dial(signal), restMs, greeting.line);
      const settled = orAborted(opened.settled(), signal);
      const heard = settled.then(() => greeting.hear(opened.answer));
      return await heard.then(() => opened, hangUp(opened));
    });
    await admissions
      .run(outer, () => withDeadline(handshakeMs, [outer], late, () => this.#admit(connection)))
      .catch(hangUp(connection));
    if (connection.isOver) throw this.#unavailable(await connection.ended);
    return connection;
  }

  /** Resolves when the connection has ended. */
  async #watch(connection: LinkConnection): Promise<void> {
    const { heartbeatMs, clock } = this.#options;
    const silenceMs = silenceOf(this.#options);
    this.#connection = connection;
    this.#heartbeatMs = clock.now();
    this.#enter('up');
    this.#exits?.follow(connection);
    const heart = heartbeats.start({
      ...{ everyMs: heartbeatMs, silenceMs },
      beat: () => connection.ask(),
      onSilence: () => connection.destroy(this.#unavailable('no answer to a heartbeat')),
    });
    connection.onAnswer = () => {
      this.#heartbeatMs = clock.now();
      heartbeats.answered(heart);
    };
    const reason = await connection.ended;
    if (reason) this.#failure = errorText(reason);
    heartbeats.stop(heart);
    this.#connection = undefined;
    this.#channelsUnknown = false;
    for (const channel of this.#channels) destroySoon(channel);
    if (this.#closing.signal.aborted) return;
    this.#log.warn({ reason: this.#failure }, 'the agent link was lost');
    this.#enter('down');
  }

  #enter(state: LinkState): void {
    if (state === this.#state) return;
    this.#state = state;
    this.#sinceMs = this.#options.clock.now();
    for (const listener of this.#listeners) listener(state);
  }

  #current(): LinkConnection {
    const connection = this.#connection;
    if (connection?.isOver === false) return connection;
    throw this.#unavailable(this.#failure);
  }

  #request(
    method: string,
    path: string,
    headers: Readonly<Record<string, string>> = {},
    connection = this.#current(),
  ): ClientHttp2Stream {
    const stream = connection.request({ ':method': method, ':path': path, ...headers });
    stream.on('error', (error: Error) =>
      this.#log.debug({ path, reason: error.message }, 'a stream of the link broke'),
    );
    return stream;
  }

  #call(
    method: string,
    path: string,
    outer?: AbortSignal,
    body?: string,
    { connection, timeoutMs = callMs }: { connection?: LinkConnection; timeoutMs?: number } = {},
  ): Promise<string> {
    const late = (): Error => this.#unavailable('no answer in time');
    return withDeadline(timeoutMs, [outer], late, async (signal) => {
      const stream = this.#request(method, path, {}, connection);
      stream.end(body);
      try {
        await orAborted(answered(stream), signal);
        return await orAborted(text(stream), signal);
      } catch (error) {
        throw error instanceof TsiError ? error : this.#unavailable(error);
      } finally {
        destroySoon(stream);
      }
    });
  }

  #unavailable(cause: unknown): TsiError {
    const reason = errorText(cause);
    const text = `no agent on channel ${this.#options.name}: ${reason}`;
    return new TsiError('TSI_UNAVAILABLE', text, { link: this.#options.name }, { cause });
  }
}

function hangUp(connection: LinkConnection): (reason: unknown) => never {
  return (reason) => {
    connection.destroy();
    throw new HungUp(reason);
  };
}
