import pLimit from 'p-limit';
import { GridError } from '#kernel/errors.js';
import type { LibvirtClient } from '#kernel/libvirt/client.js';
import type { Domain } from '#kernel/libvirt/procedures.js';
import type { DomainLook } from './hypervisor.js';
import { inBatches } from './in-batches.js';
import { byId, lookFlags as flags, toLook } from './libvirt-look.js';

/** What libvirt knows without asking anybody. */
const stateGroup = 1;
/** Beside it processors and the dirty rate, which only the machine's process knows. */
const allGroups = stateGroup | 8 | 512;
const infoMs = 2_000;
const statsCall = 'connect_get_all_domain_stats';
const renewMs = 2_000;
/**
 * Calls that may be stuck in one daemon together: each keeps one of its workers for as long as its machine hangs, and
 * where nobody has raised that there are 20.
 */
const mostStuck = 12;
/** Machines of batches that were late that are asked at the same time. */
const atOnce = 4;

/** For an answer about a batch, and about one machine. */
export type LookTimes = { readonly batchMs: number; readonly oneMs: number };

type Client = Pick<LibvirtClient, 'call' | 'callApart' | 'renew'>;
/** `undefined`: it is late. */
type Answer = readonly DomainLook[] | undefined;

/**
 * How machines are that may hang. One whose process hangs holds up the call that asks it first, for as long as it
 * hangs; later calls pass it by and say nothing of its process, which is how it is found. A batch that is late is asked
 * again beside those that follow, machine by machine, on connections that are given up with a call that is stuck. When
 * as many calls are stuck as the daemon can do without, no further processes are asked until some answer again.
 */
export class MachineLooks {
  readonly #client: Client;
  readonly #times: LookTimes;
  readonly #limit = pLimit(atOnce);
  /** In which a call is stuck. */
  readonly #held = new Set<string>();
  /** Calls that are stuck in machines that are still looked for, or may be about to be. */
  #open = 0;
  /** One batch after the other: one that is late takes the connection with it. */
  #turn: Promise<unknown> = Promise.resolve();

  constructor(client: Client, times: LookTimes = { batchMs: 1_000, oneMs: 1_000 }) {
    this.#client = client;
    this.#times = times;
  }

  /** @param isDoubtful of which it is worth a call of its own to see whether it stands still */
  async look(
    domains: readonly Domain[],
    isDoubtful: (id: string) => boolean = () => false,
  ): Promise<DomainLook[]> {
    return await inBatches(domains, async (some) => {
      const looks = await this.#lookAt(some);
      if (!looks.some(({ isUnasked }) => isUnasked)) return looks;
      const timed = (look: DomainLook): Promise<DomainLook> =>
        look.isUnasked && isDoubtful(look.id) ? this.#timed(look) : Promise.resolve(look);
      return await Promise.all(looks.map(timed));
    });
  }

  /** With the time that its process has used, which its host tells. */
  async #timed(look: DomainLook): Promise<DomainLook> {
    try {
      const options = { timeoutMs: infoMs };
      const args = { dom: byId(look.id) };
      const { cpuTime } = await this.#client.call('domain_get_info', args, options);
      return { ...look, cpuMs: Number(cpuTime / 1_000_000n) };
    } catch {
      return look;
    }
  }

  async #lookAt(some: readonly Domain[]): Promise<readonly DomainLook[]> {
    if (this.isFull) await this.#dropEnded();
    if (this.isFull) return await this.#askHeld(some);
    const answer = this.#turn.then(() => this.#askBatch(some));
    this.#turn = answer.catch(() => undefined);
    return (await answer) ?? (await this.#search(some));
  }

  /** No further one that hangs may be asked. */
  get isFull(): boolean {
    return this.#held.size + this.#open >= mostStuck;
  }

  /** With those that have ended the calls that were stuck in them have, and nobody looks at them any more. */
  async #dropEnded(): Promise<void> {
    const held = [...this.#held];
    if (held.length === 0) return; // libvirt takes none for all
    const looks = await this.#askNone(held.map(byId));
    const there = new Set(looks.filter(({ state }) => state !== 'stopped').map(({ id }) => id));
    for (const id of held) if (!there.has(id)) this.#held.delete(id);
  }

  async #askBatch(some: readonly Domain[]): Promise<Answer> {
    const looks = await orLate(this.#ask('call', some, this.#times.batchMs));
    if (looks) this.#release(some, looks);
    else {
      this.#open += 1;
      await this.#client.renew(renewMs).catch((error: unknown) => {
        this.#open -= 1; // it is not looked for
        throw error;
      });
    }
    return looks;
  }

  /** Those that a call is stuck in hold up no other: they may go on by now. */
  async #askHeld(some: readonly Domain[]): Promise<readonly DomainLook[]> {
    const held = some.filter(({ uuid }) => this.#held.has(uuid));
    const others = some.filter(({ uuid }) => !this.#held.has(uuid));
    const unasked = others.length > 0 ? await this.#askNone(others) : [];
    if (held.length === 0) return unasked;
    const looks = await orLate(this.#ask('callApart', held, this.#times.batchMs));
    if (looks) this.#release(held, looks);
    // the daemon has been started anew, and nothing was stuck any more: until now
    else for (const { uuid } of held.slice(1)) this.#held.delete(uuid);
    return [...unasked, ...(looks ?? (await this.#askNone(held)))];
  }

  #release(some: readonly Domain[], looks: readonly DomainLook[]): void {
    const lacking = new Set(looks.filter(isLacking).map(({ id }) => id));
    for (const { uuid } of some) if (!lacking.has(uuid)) this.#held.delete(uuid);
  }

  /** Of a batch that was late: a call is stuck in the first that hangs. */
  async #search(some: readonly Domain[]): Promise<readonly DomainLook[]> {
    let unfound = 1;
    try {
      if (!this.isFull) {
        const looks = await orLate(this.#ask('callApart', some, this.#times.batchMs));
        if (looks) {
          for (const { id } of looks.filter(isLacking)) this.#held.add(id);
          return looks;
        }
        // in the second one, too
        unfound += 1;
        this.#open += 1;
      }
      const found: DomainLook[] = [];
      let at = 0;
      for (const dom of some) {
        if (unfound === 0) break;
        at += 1;
        const wasHeld = this.#held.has(dom.uuid);
        // in the daemon's order, which is this: none before those is about to get stuck
        const looks = await this.#askOne(dom);
        found.push(...looks);
        if (wasHeld || !looks.some(isLacking)) continue;
        unfound -= 1;
        this.#open -= 1;
      }
      const others = some.slice(at).map((dom) => this.#limit(() => this.#askOneMore(dom)));
      return [...found, ...(await Promise.all(others)).flat()];
    } finally {
      this.#open -= unfound; // what was only slow
    }
  }

  async #askOneMore(dom: Domain): Promise<readonly DomainLook[]> {
    if (this.isFull) return await this.#askNone([dom]);
    this.#open += 1;
    try {
      return await this.#askOne(dom);
    } finally {
      this.#open -= 1;
    }
  }

  async #askOne(dom: Domain): Promise<readonly DomainLook[]> {
    const looks = await orLate(this.#ask('callApart', [dom], this.#times.oneMs));
    if (looks?.some(isLacking) ?? true) this.#held.add(dom.uuid);
    if (looks) return looks;
    const [look] = await this.#askNone([dom]);
    return look ? [{ id: look.id, state: look.state, reason: look.reason, answers: false }] : [];
  }

  /** What libvirt itself knows of them, whether or not they hang. */
  async #askNone(some: readonly Domain[]): Promise<readonly DomainLook[]> {
    const args = { doms: [...some], stats: stateGroup, flags };
    const { retStats } = await this.#client.call(statsCall, args);
    return retStats.map(({ dom, params }) => ({ ...toLook(dom, params), isUnasked: true }));
  }

  async #ask(
    how: 'call' | 'callApart',
    some: readonly Domain[],
    timeoutMs: number,
  ): Promise<readonly DomainLook[]> {
    const args = { doms: [...some], stats: allGroups, flags };
    const client = this.#client;
    const { retStats } = await client[how](statsCall, args, { timeoutMs });
    return retStats.map(({ dom, params }) => toLook(dom, params));
  }
}

/** Nothing was learnt from its process, though it runs and is not on its way to or from disk. */
function isLacking({ state, answers, isMoving }: DomainLook): boolean {
  return state === 'running' && answers !== true && isMoving !== true;
}

async function orLate(asked: Promise<readonly DomainLook[]>): Promise<Answer> {
  try {
    return await asked;
  } catch (error) {
    const isLate =
      error instanceof GridError &&
      error.code === 'HYPERVISOR_UNAVAILABLE' &&
      error.details['procedure'] === statsCall &&
      error.details['timeoutMs'] !== undefined;
    if (!isLate) throw error;
    return undefined;
  }
}
