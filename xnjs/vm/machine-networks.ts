import type { ImageMetadata, NetworkKind } from '#imagerepo/contract.js';
import { errorText, GridError } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import { ownKinds, type HostNetworks } from './host-networks.js';
import { isLocal, type Seat } from './hosts/host.js';
import { chooseCard, type NetworkCard } from './network-card.js';
import type { NetworksConfig } from './network-config.js';
import { VmError } from './state.js';
import type { Driver, MachineSpec, TargetSystem } from './target-system.js';

export type MachineNetworksOptions = {
  readonly config: NetworksConfig;
  readonly hosts: readonly HostNetworks[];
  readonly log: Log;
};

type Held = Pick<TargetSystem, 'id' | 'ownerDn' | 'card'>;
type Plugged = Pick<MachineSpec, 'id' | 'host' | 'driver' | 'card'>;

/**
 * The networks that machines of this site can have (ADR 036), each on the host of its machine (ADR 043): what of
 * them has to be there before a machine starts and must go after it. Everything may be repeated.
 */
export class MachineNetworks {
  readonly #options: MachineNetworksOptions;
  readonly #log: Log;
  readonly #hosts: ReadonlyMap<string, HostNetworks>;
  /** Chosen, and not yet in a record. */
  readonly #promised = new Map<string, Held>();

  constructor(options: MachineNetworksOptions) {
    this.#options = options;
    this.#log = options.log.child({ part: 'xnjs.vm.networks' });
    this.#hosts = new Map(options.hosts.map((host) => [host.name, host]));
  }

  /** What the site's configuration names and some host can do. */
  get offered(): readonly NetworkKind[] {
    const all = new Set([...this.#hosts.values()].flatMap(({ offered }) => offered));
    return ['none', ...ownKinds.filter((kind) => all.has(kind))];
  }

  /** What machines of a host can have, beside none. */
  offeredAt(host: string): readonly NetworkKind[] {
    return this.#hosts.get(host)?.offered ?? [];
  }

  /** Of the kinds that the site's configuration names, why machines there cannot have them. */
  problemsAt(host: string): Readonly<Partial<Record<NetworkKind, string>>> {
    const named = ownKinds.filter((kind) => this.#options.config[kind]);
    return Object.fromEntries(
      named.flatMap((kind) => {
        const reason = this.whyNotAt(host, kind);
        return reason === undefined ? [] : [[kind, reason]];
      }),
    );
  }

  whyNotAt(host: string, kind: NetworkKind): string | undefined {
    const found = this.#hosts.get(host);
    return found ? found.whyNot(kind) : 'it is not in the configuration (hypervisor.hosts)';
  }

  /** @throws {@link VmError} `BAD_REQUEST` naming the field, and why machines here cannot have it */
  async require(
    kind: NetworkKind,
    field: string,
    { driver, metadata }: { readonly driver: Driver; readonly metadata: ImageMetadata },
  ): Promise<void> {
    if (kind === 'none') return;
    const refuse = (reason: string): never => {
      throw new VmError('BAD_REQUEST', `${field}: ${kind} cannot be had: ${reason}`);
    };
    const hosts = [...this.#hosts.values()];
    await Promise.all(hosts.map((host) => host.settled()));
    if (!this.#options.config[kind])
      refuse(`this site offers ${this.offered.join(', ')} (xnjs.hypervisor.networks)`);
    if (driver === 'lxc') refuse('libvirt cannot filter what containers send');
    if (metadata.tsi.transport === 'tcp')
      refuse('its TSI is reached over a network of its own (tsi.transport tcp)');
    if (!hosts.some((host) => host.offered.includes(kind)))
      refuse(
        hosts
          .map((host) => `${hosts.length > 1 ? `${host.name}: ` : ''}${host.whyNot(kind) ?? ''}`)
          .join('; '),
      );
  }

  /**
   * Gives a machine its card, once and for all; it counts as taken until {@link settle}. Addresses are no two
   * machines' of the site, wherever these are: a machine that goes on elsewhere keeps its own.
   * @throws `QUOTA_EXCEEDED` all addresses are taken
   */
  promise(
    { id, ownerDn, parameters: { network } }: Pick<TargetSystem, 'id' | 'ownerDn' | 'parameters'>,
    records: Iterable<Held>,
  ): NetworkCard | undefined {
    if (network === undefined) return undefined;
    const others = [...records, ...this.#promised.values()];
    const card = chooseCard(network, { id, ownerDn }, this.#options.config, others);
    this.#promised.set(id, { id, ownerDn, card });
    return card;
  }

  /** Its record is stored, or will never be. */
  settle(id: string): void {
    this.#promised.delete(id);
  }

  /** Makes what the machine's card is plugged into. @throws as the hypervisor does */
  async ensure(machine: Plugged): Promise<void> {
    if (machine.card) await this.#of(machine).ensure(machine);
  }

  /** Takes it away again, once the machine is gone from its host. */
  async release(machine: Plugged): Promise<void> {
    if (machine.card) await this.#of(machine).release(machine);
  }

  /** Finds out what a host can do of what is configured. Its outcome counts for what is asked later. */
  async check({ host, driver }: Seat): Promise<void> {
    if (driver !== 'lxc') await this.#hosts.get(host)?.check(driver);
  }

  /** As {@link check}, where that was cut short, or never begun. Never fails. */
  async recheck({ host, driver }: Seat): Promise<void> {
    try {
      if (driver !== 'lxc') await this.#hosts.get(host)?.recheck(driver);
    } catch (error) {
      this.#log.warn(
        { host, err: errorText(error) },
        'what networks it can have was not found out',
      );
    }
  }

  /**
   * Removes networks of target systems that were removed, where nothing of them is left.
   * @param isGone whether that is proven
   * @param isLost whether a host is not to be asked any more
   */
  async sweep(
    isGone: (targetId: string) => Promise<boolean>,
    isLost: (host: string) => boolean = () => false,
  ): Promise<void> {
    for (const host of this.#hosts.values())
      try {
        if (!isLost(host.name)) await host.sweep(isGone);
      } catch (error) {
        if (isLocal({ host: host.name })) throw error;
        const about = { host: host.name, err: errorText(error) };
        this.#log.warn(about, 'the networks of a host could not be swept');
      }
  }

  #of({ host }: Pick<Seat, 'host'>): HostNetworks {
    const found = this.#hosts.get(host);
    if (found) return found;
    const text = `host ${host} is not in the configuration (hypervisor.hosts)`;
    throw new GridError('HYPERVISOR_UNAVAILABLE', text, { host });
  }
}
