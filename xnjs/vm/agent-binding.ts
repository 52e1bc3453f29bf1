import { connect } from 'node:net';
import type { Duplex } from 'node:stream';
import type { Clock } from '#kernel/clock.js';
import type { Log } from '#kernel/log.js';
import type { AgentFacts } from '#tsi/protocol/facts.js';
import type { MachineClock } from '#tsi/protocol/machine-clock.js';
import type { MachineIdentity } from '#tsi/protocol/machine-identity.js';
import type { MachineSetup, SetupReport } from '#tsi/protocol/machine-setup.js';
import type { ScriptHeader } from '../idb/script-header.js';
import { AgentLink } from '../tsi/agent-link.js';
import type { AgentLinkOptions } from '../tsi/agent-link-options.js';
import { createTsi, type TsiClient } from '../tsi/tsi-client.js';
import type { TsiIdentity } from '../tsi/tsi.js';
import { agentPort } from './domain-xml.js';
import type { Hosts } from './hosts/hosts.js';
import type { TargetBinding } from './target-binding.js';
import type { TargetSystem } from './target-system.js';

export type AgentBindingOptions = {
  readonly record: Pick<TargetSystem, 'id' | 'driver' | 'host'>;
  /** Host side of the agent's channel; absent: it is on another host. */
  readonly socket?: string;
  readonly hosts: Pick<Hosts, 'of'>;
  readonly clock: Clock;
  readonly log: Log;
  readonly heartbeatMs: number;
  readonly silenceMs?: number;
  /** Makes sure that it is this machine that answers. */
  readonly admit?: AgentLinkOptions['admit'];
  /** What the machine is told before anything else. */
  readonly greet?: AgentLinkOptions['greet'];
  readonly scriptHeader?: () => ScriptHeader;
};

/** A new worker is there in milliseconds, and one that rests takes memory here and there. */
const workerRestMs = 20_000;

/** The live side of a target system whose domain runs: the link to its agent and the TSI on it. */
export class AgentBinding implements TargetBinding {
  readonly tsi: TsiClient;
  readonly #link: AgentLink;
  readonly #log: Log;
  readonly #id: string;

  constructor(options: AgentBindingOptions) {
    const { record, socket, hosts, clock, log, heartbeatMs, silenceMs, admit, greet } = options;
    const { scriptHeader } = options;
    this.#log = log;
    this.#id = record.id;
    const dial = (): Promise<Duplex> => dialAgent(record, socket, hosts);
    this.#link = new AgentLink({
      name: record.id,
      dial,
      // a container's agent listens; a port or a console has one host at a time
      dialsMany: record.driver === 'lxc' && socket !== undefined,
      heartbeatMs,
      ...(silenceMs !== undefined && { silenceMs }),
      ...(admit && { admit }),
      // a container's agent is not emulated, and hears what a connection is for by its first line
      ...(greet && record.driver !== 'lxc' && { greet }),
      clock,
      log,
    });
    this.tsi = createTsi(this.#link.transport(), {
      log,
      clock,
      restMs: workerRestMs,
      ...(scriptHeader && { scriptHeader }),
    });
  }

  get heardMs(): number | undefined {
    return this.#link.times.heartbeatMs;
  }

  /** Called whenever the agent begins or ceases to answer. */
  onChange(listener: (up: boolean) => void): void {
    this.#link.onChange((state) => {
      if (state !== 'connecting') listener(state === 'up');
    });
  }

  onExit(listener: (bssId: string) => void): () => void {
    return this.#link.onExit(listener);
  }

  /** The machine is its only login node, whatever it is called. */
  forward(identity: TsiIdentity, service: string, signal: AbortSignal): Promise<Duplex> {
    return this.#link.forward(identity, service, signal);
  }

  /** What the guest says of itself; `undefined` if that makes no sense. */
  async facts(): Promise<AgentFacts | undefined> {
    try {
      return await this.#link.facts();
    } catch (error) {
      const log = this.#log.child({ part: 'xnjs.vm', vmId: this.#id });
      log.warn({ err: error }, 'the agent says nothing sensible of its guest');
      return undefined;
    }
  }

  async catchUp(clock: MachineClock): Promise<void> {
    await this.#link.catchUp(clock);
  }

  get isAnother(): boolean {
    return this.#link.isAnother;
  }

  async assume(identity: MachineIdentity): Promise<void> {
    await this.#link.assume(identity);
  }

  async setUp(setup: MachineSetup): Promise<SetupReport | undefined> {
    return await this.#link.setUp(setup);
  }

  async prove(): Promise<void> {
    await this.#link.prove();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.tsi[Symbol.asyncDispose]();
    await this.#link[Symbol.asyncDispose]();
  }
}

/** The socket on this host, or the hypervisor's stream where the socket is out of reach. */
async function dialAgent(
  record: Pick<TargetSystem, 'id' | 'driver' | 'host'>,
  path: string | undefined,
  hosts: Pick<Hosts, 'of'>,
): Promise<Duplex> {
  const { id, driver } = record;
  const openChannel = (): Promise<Duplex> => hosts.of(record).openChannel(driver, id, agentPort);
  if (path === undefined) return await openChannel();
  try {
    return await new Promise<Duplex>((resolve, reject) => {
      const socket = connect(path, () => resolve(socket.off('error', reject)));
      socket.once('error', reject);
    });
  } catch (error) {
    if (driver === 'lxc') throw error;
    return await openChannel();
  }
}
