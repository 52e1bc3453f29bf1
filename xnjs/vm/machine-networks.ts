import type { ImageMetadata, NetworkKind } from '#imagerepo/contract.js';
import { errorText } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import { networkMark, type NetworkHypervisor } from './libvirt-networks.js';
import {
  chooseCard,
  filterName,
  networkName,
  type NetworkCard,
  type SharedNetworkKind,
} from './network-card.js';
import type { NetworksConfig } from './network-config.js';
import { filterXml, guestRules, hostMac } from './network-filter.js';
import { isLocal, type Seat } from './hosts/host.js';
import { bareNetworkXml, dhcpNetworkXml } from './network-xml.js';
import { isPassing } from './passing.js';
import { VmError } from './state.js';
import type { Driver, MachineSpec, TargetSystem } from './target-system.js';

export type MachineNetworksOptions = {
  readonly config: NetworksConfig;
  readonly hypervisor: NetworkHypervisor;
  readonly installationId: string;
  /** Of the server's host, which no machine reaches. */
  readonly hostAddresses: readonly string[];
  /** Why libvirt's user networking would let machines reach what they must not. */
  readonly whyNoUserNetwork: () => Promise<string | undefined>;
  readonly log: Log;
};

type Held = Pick<TargetSystem, 'id' | 'ownerDn' | 'card'>;

/**
 * The networks that machines of this site can have (ADR 036), and what of them has to be there before a
 * machine starts and must go after it. Everything may be repeated.
 */
export class MachineNetworks {
  readonly #options: MachineNetworksOptions;
  readonly #log: Log;
  /** Of kinds that cannot be had at present, why. */
  readonly #impossible = new Map<NetworkKind, string>();
  /** Chosen, and not yet in a record. */
  readonly #promised = new Map<string, Held>();
  #checked: Promise<void> = Promise.resolve();
  /** Of the machines here; absent: it has not answered yet. */
  #driver: Driver | undefined;

  constructor(options: MachineNetworksOptions) {
    this.#options = options;
    this.#log = options.log.child({ part: 'xnjs.vm.networks' });
  }

  /** What the site's configuration names and its host can do. */
  get offered(): readonly NetworkKind[] {
    const { config } = this.#options;
    const named = (['user', 'nat', 'isolated', 'bridge'] as const).filter((kind) => config[kind]);
    return ['none', ...named.filter((kind) => !this.#impossible.has(kind))];
  }

  /** @throws {@link VmError} `BAD_REQUEST` naming the field, and why machines here cannot have it */
  async require(
    kind: NetworkKind,
    field: string,
    { driver, metadata }: { readonly driver: Driver; readonly metadata: ImageMetadata },
  ): Promise<void> {
    if (kind === 'none') return;
    await this.#checked;
    const refuse = (reason: string): never => {
      throw new VmError('BAD_REQUEST', `${field}: ${kind} cannot be had: ${reason}`);
    };
    const impossible = this.#impossible.get(kind);
    if (impossible !== undefined) refuse(impossible);
    if (!this.offered.includes(kind))
      refuse(`this site offers ${this.offered.join(', ')} (xnjs.hypervisor.networks)`);
    if (driver === 'lxc') refuse('libvirt cannot filter what containers send');
    if (metadata.tsi.transport === 'tcp')
      refuse('its TSI is reached over a network of its own (tsi.transport tcp)');
  }

  /**
   * Gives a machine its card, once and for all; it counts as taken until {@link settle}.
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
  async ensure({ id, driver, card }: Pick<MachineSpec, 'id' | 'driver' | 'card'>): Promise<void> {
    if (!card || card.kind === 'user') return;
    const { kind, host, mac, address } = card;
    const { hypervisor, installationId } = this.#options;
    const name = networkName(card, id, installationId);
    await hypervisor.ensureNetwork(driver, {
      name,
      filterXml: this.#filterXml(kind),
      ...(host !== undefined && { networkXml: this.#networkXml(kind, name, host, id) }),
    });
    if (address !== undefined) await hypervisor.ensureHost(driver, name, { mac, address });
  }

  /** Takes it away again, once the machine is gone. */
  async release({ id, driver, card }: Pick<MachineSpec, 'id' | 'driver' | 'card'>): Promise<void> {
    if (card?.address === undefined) return;
    const { hypervisor, installationId } = this.#options;
    const name = networkName(card, id, installationId);
    if (card.kind === 'isolated') await hypervisor.removeNetwork(driver, name);
    else await hypervisor.removeHost(driver, name, card.mac);
  }

  /**
   * Finds out what the host can do of what is configured. Its outcome counts for what is asked later. Other
   * hosts' networks are not offered: what there must not be reached is not known here.
   */
  async check(seat: Seat): Promise<void> {
    if (seat.driver === 'lxc' || !isLocal(seat)) return;
    this.#driver = seat.driver;
    this.#checked = this.#check(seat.driver);
    await this.#checked;
  }

  /**
   * Removes networks of target systems that were removed, where nothing of them is left.
   * @param isGone whether that is proven
   */
  async sweep(isGone: (targetId: string) => Promise<boolean>): Promise<void> {
    const { hypervisor, config } = this.#options;
    const driver = this.#driver;
    if (driver === undefined || !config.isolated) return;
    for (const { name, targetId } of await hypervisor.listNetworks(driver)) {
      if (targetId === undefined || !(await isGone(targetId))) continue;
      this.#log.warn({ vmId: targetId, network: name }, 'a network of nobody is removed');
      await hypervisor.removeNetwork(driver, name);
    }
  }

  async #check(driver: Driver): Promise<void> {
    const { config, whyNoUserNetwork } = this.#options;
    const userRefusal = config.user && (await whyNoUserNetwork());
    if (userRefusal !== undefined) this.#refuse('user', userRefusal);
    else this.#impossible.delete('user');
    for (const kind of ['nat', 'isolated', 'bridge'] as const) {
      if (!config[kind]) continue;
      try {
        await this.#try(driver, kind);
        if (this.#impossible.delete(kind)) this.#log.info({ kind }, 'a kind of network can be had');
      } catch (error) {
        if (isPassing(error)) return;
        this.#refuse(kind, `libvirt cannot make it here: ${errorText(error)}`);
      }
    }
  }

  /** What is made for all machines stays; of the others one is made and removed. */
  async #try(driver: Driver, kind: SharedNetworkKind): Promise<void> {
    const { config, hypervisor, installationId } = this.#options;
    const isNat = kind === 'nat';
    const name = isNat
      ? networkName({ kind }, '', installationId)
      : `vsite-try-${installationId.slice(0, 8)}`;
    const networkXml =
      isNat && config.nat
        ? this.#networkXml(kind, name, config.nat.host)
        : bareNetworkXml(name, networkMark(installationId));
    await hypervisor.ensureNetwork(driver, {
      name,
      filterXml: this.#filterXml(kind),
      ...(kind !== 'bridge' && { networkXml }),
    });
    if (kind === 'isolated') await hypervisor.removeNetwork(driver, name);
  }

  #refuse(kind: NetworkKind, reason: string): void {
    if (this.#impossible.get(kind) !== reason)
      this.#log.warn({ kind, reason }, 'a kind of network that is configured cannot be had');
    this.#impossible.set(kind, reason);
  }

  #filterXml(kind: SharedNetworkKind): string {
    const { config, hostAddresses, installationId } = this.#options;
    const { nat, bridge, isolated } = config;
    const own = (kind === 'nat' ? nat?.deny : bridge?.deny) ?? [];
    // the host has addresses in the networks that it makes, which need not be there yet
    const network = [nat?.host, isolated?.range].filter((each) => each !== undefined);
    return filterXml(
      filterName(kind, installationId),
      guestRules(kind, {
        denied: [...new Set([...own, ...network, ...hostAddresses])],
        peers: nat?.peers ?? false,
        dns: nat?.dns ?? false,
      }),
    );
  }

  #networkXml(kind: SharedNetworkKind, name: string, host: string, id?: string): string {
    const isNat = kind === 'nat';
    const mark = networkMark(this.#options.installationId, isNat ? undefined : id);
    const dns = isNat && this.#options.config.nat?.dns === true;
    return dhcpNetworkXml({ name, host, mark, mac: hostMac, nat: isNat, dns });
  }
}
