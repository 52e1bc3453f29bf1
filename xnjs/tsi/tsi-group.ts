import type { Readable } from 'node:stream';
import type { Clock } from '#kernel/clock.js';
import { errorText, GridError } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import { TsiError } from '#tsi/protocol/error.js';
import { matchesNode, type NodeName } from './node-name.js';
import { withSafeguards } from './safeguards.js';
import type { LoginNodes, Tsi } from './tsi.js';
import type { TsiClient } from './tsi-client.js';
import { workerLost } from './worker-pool.js';

/** One TSI of a target system: a login node. */
export type TsiNode = NodeName & { readonly tsi: TsiClient };

export type TsiGroupOptions = {
  /** For messages: the target system. */
  readonly name: string;
  readonly nodes: readonly TsiNode[];
  /** A TSI that does not answer is left alone for so long, doubled from the first time to the last. */
  readonly firstPauseMs?: number;
  readonly maxPauseMs?: number;
  readonly clock: Clock;
  readonly log: Log;
};

/**
 * What may be done on another node when one was lost over it: `repeat` asks only, or says itself whether
 * it is known already; `once` is repeated only if nothing was sent; `stream` stays where it began.
 */
const kinds = {
  ping: 'repeat',
  execute: 'once',
  list: 'repeat',
  read: 'stream',
  write: 'stream',
  space: 'repeat',
  aclSupport: 'repeat',
  getAcl: 'repeat',
  setAcl: 'once',
  submit: 'once',
  status: 'repeat',
  abort: 'repeat',
  details: 'repeat',
  hold: 'repeat',
  resume: 'repeat',
  runOnLoginNode: 'once',
  processes: 'repeat',
  killOnLoginNode: 'repeat',
  partitions: 'repeat',
  budget: 'repeat',
  userInfo: 'repeat',
  makeReservation: 'once',
  queryReservation: 'repeat',
  cancelReservation: 'repeat',
} as const satisfies Record<keyof Tsi, 'repeat' | 'once' | 'stream'>;
type Kind = (typeof kinds)[keyof typeof kinds];
type Method = (...args: unknown[]) => unknown;

/** What is known of a node. `untilMs`: not before is it asked again. */
type Circuit = { failures: number; untilMs: number; probing: boolean; reason: string };

const probeMs = 20_000;

/**
 * Several TSIs of one batch system and one file system behind one: calls go round those that answer. Each
 * has a circuit breaker, so that one which is gone costs a call now and then, not each of them.
 */
export class TsiGroup implements AsyncDisposable, LoginNodes {
  /** Whatever node is best. */
  readonly tsi: Tsi;
  readonly #options: TsiGroupOptions;
  readonly #circuits = new Map<TsiNode, Circuit>();
  #turn = 0;
  /** Of their own, that they are spread evenly whatever else is asked. */
  #choices = 0;

  constructor(options: TsiGroupOptions) {
    this.#options = options;
    this.tsi = this.#view(() => true);
  }

  check(wish: string): void {
    this.#called(wish);
  }

  choose(wish?: string): string {
    return this.#next(new Set(this.#called(wish)), new Set(), this.#choices++).name;
  }

  #called(wish: string | undefined): readonly TsiNode[] {
    const { name, nodes } = this.#options;
    const candidates = nodes.filter((node) => wish === undefined || matchesNode(node, wish));
    if (candidates.length === 0) {
      const known = nodes.map((node) => node.name).join(', ');
      const text = `Login node: target system ${name} has no node "${wish ?? ''}", only ${known}`;
      throw new GridError('BAD_REQUEST', text);
    }
    return candidates;
  }

  on(nodeName: string): Tsi {
    if (this.#options.nodes.some(({ name }) => name === nodeName))
      return this.#view(({ name }) => name === nodeName);
    throw new GridError('BAD_REQUEST', `target system ${this.#options.name}: no node ${nodeName}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#options.nodes.map(({ tsi }) => tsi[Symbol.asyncDispose]()));
  }

  #view(admits: (node: TsiNode) => boolean): Tsi {
    const nodes = new Set(this.#options.nodes.filter(admits));
    const methods = Object.entries(kinds).map(([name, kind]) => [
      name,
      (...args: unknown[]) => this.#call(nodes, name as keyof Tsi, kind, args),
    ]);
    const tsi = Object.fromEntries(methods) as Tsi; // one entry for each method, by the table's type
    return withSafeguards(tsi, this.#options.clock);
  }

  #call(nodes: ReadonlySet<TsiNode>, name: keyof Tsi, kind: Kind, args: unknown[]): unknown {
    const on = (node: TsiNode): unknown => (node.tsi[name] as Method).apply(node.tsi, args);
    if (name === 'read') {
      const node = this.#pick(nodes, new Set());
      return (on(node) as Readable).once('error', (error) => this.#note(node, error));
    }
    return this.#anywhere(nodes, kind, on);
  }

  async #anywhere(
    nodes: ReadonlySet<TsiNode>,
    kind: Kind,
    on: (node: TsiNode) => unknown,
  ): Promise<unknown> {
    const tried = new Set<TsiNode>();
    for (;;) {
      const node = this.#pick(nodes, tried);
      tried.add(node);
      try {
        const result = await on(node);
        this.#circuits.delete(node);
        return result;
      } catch (error) {
        if (!this.#note(node, error)) throw error;
        const harmless = kind === 'repeat' || (kind === 'once' && !workerLost(error));
        if (!harmless || tried.size === nodes.size) throw error;
      }
    }
  }

  /** @returns whether the node did not answer */
  #note(node: TsiNode, error: unknown): boolean {
    if (!(error instanceof TsiError) || error.code !== 'TSI_UNAVAILABLE') {
      if (error instanceof TsiError) this.#circuits.delete(node); // it answered, if only to refuse
      return false;
    }
    const { firstPauseMs = 500, maxPauseMs = 50_000, clock, log } = this.#options;
    const before = this.#circuits.get(node);
    // calls that were under way together have failed together, of one cause
    if (before && !before.probing && before.untilMs > clock.now()) return true;
    const { failures = 0 } = before ?? {};
    const pauseMs = Math.min(maxPauseMs, firstPauseMs * 2 ** Math.min(failures, 20));
    const reason = errorText(error);
    const untilMs = clock.now() + pauseMs;
    this.#circuits.set(node, { failures: failures + 1, untilMs, probing: false, reason });
    if (failures === 0) log.warn({ tsi: node.name, reason }, 'a TSI does not answer');
    return true;
  }

  /** Whom to call now: one that did not answer gets a single call when its pause is over. */
  #pick(nodes: ReadonlySet<TsiNode>, tried: ReadonlySet<TsiNode>): TsiNode {
    const node = this.#next(nodes, tried, this.#turn++);
    const circuit = this.#circuits.get(node);
    const untilMs = this.#options.clock.now() + probeMs;
    if (circuit) Object.assign(circuit, { untilMs, probing: true });
    return node;
  }

  /** The next in turn of those that may be called. */
  #next(nodes: ReadonlySet<TsiNode>, tried: ReadonlySet<TsiNode>, turn: number): TsiNode {
    const now = this.#options.clock.now();
    const ready = [...nodes].filter((node) => {
      const circuit = this.#circuits.get(node);
      return !tried.has(node) && (!circuit || circuit.untilMs <= now);
    });
    const node = ready[turn % Math.max(1, ready.length)];
    if (!node) throw this.#unavailable(nodes);
    return node;
  }

  #unavailable(nodes: ReadonlySet<TsiNode>): TsiError {
    const [reason = 'it has no TSI'] = [...nodes].flatMap(
      (node) => this.#circuits.get(node)?.reason ?? [],
    );
    const text = `no TSI of target system ${this.#options.name} answers: ${reason}`;
    return new TsiError('TSI_UNAVAILABLE', text, { vsite: this.#options.name });
  }
}
