import type { Duplex } from 'node:stream';
import type { Clock } from '#kernel/clock.js';
import { asGridError, errorText, GridError } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import { orAborted, withDeadline } from '#kernel/net/deadline.js';
import { TsiError } from '#tsi/protocol/error.js';
import { decodeEnrolmentAnswer, longestEnrolment } from '#tsi/protocol/enrolment.js';
import type { ScriptHeader } from '../idb/script-header.js';
import type { AskEnrolment } from '../tsi/agent-link-options.js';
import {
  askMain,
  callbackTransport,
  type CallbackPorts,
  type MachinePeer,
  type TsiTls,
} from '../tsi/callback-transport.js';
import { silenceOf } from '../tsi/silence.js';
import { createTsi, type TsiClient } from '../tsi/tsi-client.js';
import { TsiGroup } from '../tsi/tsi-group.js';
import type { LoginNodes, Tsi, TsiIdentity, TsiTransport } from '../tsi/tsi.js';
import type { TargetBinding } from './target-binding.js';

export type ClassicBindingOptions = {
  /** For logs and messages: the target system. */
  readonly name: string;
  /** Whom the TSI lists jobs as: an account that the image has. */
  readonly login: string;
  /** Addresses that the machine has at present; asked anew whenever its TSI does not answer. */
  readonly addresses: (signal: AbortSignal) => Promise<readonly string[]>;
  /** One for each TSI. */
  readonly ports: readonly number[];
  readonly listener: CallbackPorts;
  readonly tls?: TsiTls;
  /** Which machine it is that answers (ADR 039), beyond what all of its image show; only with TLS. */
  readonly enrolment?: {
    readonly admit: (ask: AskEnrolment) => Promise<void>;
    /** What its workers have to prove; `undefined`: no more than those of its image. */
    readonly peer: () => MachinePeer | undefined;
    /** Its certificate is to be renewed. */
    readonly isDue: () => boolean;
  };
  readonly heartbeatMs: number;
  /** A ping unanswered for so long means that the TSI is gone. */
  readonly silenceMs?: number;
  readonly clock: Clock;
  readonly log: Log;
  readonly scriptHeader?: () => ScriptHeader;
};

/** The TSIs at an address, and what asks each of them whether it lives. */
type Bound = {
  readonly host: string;
  readonly group: TsiGroup;
  readonly probes: readonly TsiClient[];
  readonly transports: readonly TsiTransport[];
};

/** A refused connection costs little, and nobody can use the machine before its TSI answers. */
const againMs = 250;
/** One that was refused may be another the next time, but not soon. */
const refusedMs = 2_000;
/** What a worker may take to come, when the binding has no reason to wait longer. */
const openMs = 15_000;
/** Two minutes for a worker: a main that has not got there by then does not get there by waiting. */
const mostPatience = 8;

/**
 * The live side of a target system that is reached over a network: a TSI with a classic main, at an
 * address that its machine got when it started and may change with every start. Bound while it answers
 * pings, on a worker of their own: jobs may hold all others for long. Of several TSIs one is enough.
 */
export class ClassicBinding implements TargetBinding {
  readonly #options: ClassicBindingOptions;
  readonly #log: Log;
  readonly #closing = new AbortController();
  readonly #listeners = new Set<(up: boolean) => void>();
  readonly #running: Promise<void>;
  #bound: Bound | undefined;
  #arrays: boolean | undefined;
  #heardMs: number | undefined;
  #failure = 'it has not answered yet';
  /**
   * How many times longer than usual a worker may take to come. Doubled when one did not come in time: what
   * gives up in the middle each time never gets anywhere with a slow machine, whose main it keeps busy.
   */
  #patience = 1;
  #isRefused = false;

  constructor(options: ClassicBindingOptions) {
    this.#options = options;
    this.#log = options.log.child({ part: 'xnjs.vm', vmId: options.name });
    this.#running = this.#run();
  }

  get tsi(): Tsi {
    return this.#answering().group.tsi;
  }

  async forward(
    identity: TsiIdentity,
    service: string,
    signal: AbortSignal,
    loginNode?: string,
  ): Promise<Duplex> {
    const { group, transports } = this.#answering();
    const chosen = group.choose(loginNode);
    const transport = transports.find((_, at) => nodeName(at) === chosen);
    if (transport?.forward) return await transport.forward(identity, service, signal);
    throw new GridError('NOT_IMPLEMENTED', `${chosen} forwards no connections`);
  }

  get loginNodes(): LoginNodes | undefined {
    return this.#options.ports.length < 2 ? undefined : this.#answering().group;
  }

  get heardMs(): number | undefined {
    return this.#heardMs;
  }

  get arrays(): boolean | undefined {
    return this.#arrays;
  }

  onChange(listener: (up: boolean) => void): void {
    this.#listeners.add(listener);
  }

  /** TSIs of the original tell nothing of their machine. */
  facts(): Promise<undefined> {
    return Promise.resolve(undefined);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing.abort(new Error('the target system is let go'));
    this.#listeners.clear();
    await this.#running;
  }

  get #callMs(): number {
    return silenceOf(this.#options);
  }

  #answering(): Bound {
    if (this.#bound) return this.#bound;
    const text = `the TSI of target system ${this.#options.name} does not answer: ${this.#failure}`;
    throw new GridError('TSI_UNAVAILABLE', text, { vmId: this.#options.name });
  }

  async #run(): Promise<void> {
    const { signal } = this.#closing;
    while (!signal.aborted) {
      const bound = await this.#bindAnywhere();
      if (bound) {
        await this.#watch(bound);
        this.#bound = undefined;
        await letGo(bound);
        if (!this.#closing.signal.aborted) this.#tell(false);
      }
      await this.#pause(this.#isRefused ? refusedMs : againMs);
    }
  }

  async #bindAnywhere(): Promise<Bound | undefined> {
    const { signal } = this.#closing;
    const found = await this.#options.addresses(signal).catch((error: unknown) => {
      this.#failure = errorText(error);
      return [];
    });
    if (found.length === 0) this.#log.debug('the machine has no address yet');
    this.#isRefused = false;
    for (const host of found) {
      const begunMs = this.#options.clock.now();
      let bound: Bound | undefined;
      try {
        await this.#admit(host);
        bound = this.#open(host);
        const version = await ping(bound, signal);
        // a TSI of the original would run such a job once, and say nothing
        this.#arrays = await anyOf(bound, (probe) => probe.can('arrays', { signal }));
        this.#log.info({ address: host, version }, 'bound to a TSI');
        this.#patience = 1;
        return bound;
      } catch (error) {
        if (bound) await letGo(bound);
        if (this.#options.clock.now() - begunMs >= this.#callMs * this.#patience)
          this.#patience = Math.min(mostPatience, 2 * this.#patience);
        this.#isRefused ||= asGridError(error)?.code === 'FORBIDDEN';
        this.#failure = errorText(error);
        this.#log.debug({ reason: this.#failure }, 'the TSI does not answer yet');
      }
    }
    return undefined;
  }

  /** @throws `FORBIDDEN` it is not the machine that it should be; `TSI_UNAVAILABLE` */
  async #admit(host: string): Promise<void> {
    const { enrolment, tls, ports, listener } = this.#options;
    if (!enrolment || !tls) return;
    const mains = ports.map((port) => ({ host, port, listener, tls }));
    const ms = this.#callMs * this.#patience;
    const admitted = enrolment.admit(async (message) => {
      const line = `enrolment ${JSON.stringify(message)}`;
      const answer = await askFirst(mains, line, ms, this.#closing.signal);
      return answer === undefined ? undefined : decodeEnrolmentAnswer(answer);
    });
    // what it stores waits for its turn, which whoever lets go of the machine may have
    await orAborted(admitted, this.#closing.signal);
  }

  /** It works meanwhile, by the key that is known. @throws `FORBIDDEN` it is another machine now */
  async #renew(host: string): Promise<void> {
    try {
      await this.#admit(host);
    } catch (error) {
      if (asGridError(error)?.code === 'FORBIDDEN') throw error;
      this.#log.info({ reason: errorText(error) }, 'a certificate was not renewed');
    }
  }

  #open(host: string): Bound {
    const { ports, listener, login, name, clock } = this.#options;
    const machine = this.#options.enrolment?.peer();
    const tls = this.#options.tls && { ...this.#options.tls, ...(machine && { machine }) };
    const { scriptHeader } = this.#options;
    const common = { clock, log: this.#log, ...(scriptHeader && { scriptHeader }) };
    const systemIdentity = { login, groups: 'DEFAULT_GID' };
    const callMs = this.#callMs;
    const patience = this.#patience;
    const transports = ports.map((port) =>
      callbackTransport({ host, port, listener, ...(tls && { tls }) }),
    );
    const nodes = transports.map((transport, at) => ({
      name: nodeName(at),
      tsi: createTsi(transport, { ...common, systemIdentity, openMs: openMs * patience }),
    }));
    return {
      host,
      transports,
      group: new TsiGroup({ name, nodes, ...common }),
      probes: transports.map((transport) =>
        createTsi(transport, { ...common, workers: 1, callMs, openMs: callMs * patience }),
      ),
    };
  }

  /** Resolves when the TSI has ceased to answer. */
  async #watch(bound: Bound): Promise<void> {
    const { signal } = this.#closing;
    this.#bound = bound;
    this.#tell(true);
    try {
      for (;;) {
        this.#heardMs = this.#options.clock.now();
        await this.#options.clock.sleep(this.#options.heartbeatMs, signal);
        await ping(bound, signal);
        if (this.#options.enrolment?.isDue()) await this.#renew(bound.host);
      }
    } catch (error) {
      if (signal.aborted) return;
      this.#failure = errorText(error);
      this.#log.warn({ reason: this.#failure }, 'the TSI has ceased to answer');
    }
  }

  #tell(up: boolean): void {
    for (const listener of this.#listeners) listener(up);
  }

  async #pause(ms: number): Promise<void> {
    await this.#options.clock.sleep(ms, this.#closing.signal).catch(() => undefined);
  }
}

/** Resolves when one of the TSIs answers. @throws why the first does not, when none does */
function ping(bound: Bound, signal: AbortSignal): Promise<string> {
  return anyOf(bound, (probe) => probe.ping({ signal }));
}

async function anyOf<T>({ probes }: Bound, ask: (probe: TsiClient) => Promise<T>): Promise<T> {
  try {
    return await Promise.any(probes.map(ask));
  } catch (error) {
    throw error instanceof AggregateError ? (error.errors[0] as Error) : error;
  }
}

function tooSlow(): Error {
  return new TsiError('TSI_UNAVAILABLE', 'it takes too long to prove which machine it is');
}

/**
 * The TSIs of a machine keep one proof between them: two that are asked at once would make two. One that hangs
 * leaves the others their share of the time.
 */
async function askFirst(
  mains: readonly Parameters<typeof askMain>[0][],
  line: string,
  ms: number,
  closing: AbortSignal,
): Promise<string | undefined> {
  let failure: unknown;
  for (const main of mains)
    try {
      return await withDeadline(ms / mains.length, [closing], tooSlow, (signal) =>
        askMain(main, line, longestEnrolment, signal),
      );
    } catch (error) {
      failure ??= error;
    }
  throw failure;
}

async function letGo({ group, probes }: Bound): Promise<void> {
  await Promise.all([group, ...probes].map((each) => each[Symbol.asyncDispose]()));
}

/** Of the TSIs of a machine, whose address may be another tomorrow. */
function nodeName(at: number): string {
  return `login${at + 1}`;
}
