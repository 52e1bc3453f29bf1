import type { NetworkKind } from '#imagerepo/contract.js';
import { errorText, GridError } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import { networkMark, type NetworkHypervisor } from './libvirt-networks.js';
import { filterName, networkName, type SharedNetworkKind } from './network-card.js';
import type { NetworksConfig } from './network-config.js';
import { filterXml, guestRules, hostMac } from './network-filter.js';
import { bareNetworkXml, dhcpNetworkXml } from './network-xml.js';
import { isPassing } from './passing.js';
import type { Driver, MachineSpec } from './target-system.js';

export type HostNetworksOptions = {
  readonly host: string;
  readonly config: NetworksConfig;
  /** That host's own. */
  readonly hypervisor: NetworkHypervisor;
  readonly installationId: string;
  /**
   * What no machine there reaches, beside what that host's libvirt knows: its addresses, and those of the other hosts of
   * this site. `undefined`: its own are not known.
   */
  readonly addresses: () => readonly string[] | undefined;
  /** Why libvirt's user networking would let machines reach what they must not. */
  readonly whyNoUserNetwork: () => Promise<string | undefined>;
  readonly log: Log;
};

/** Those that libvirt makes. */
const madeKinds = ['nat', 'isolated', 'bridge'] as const;
export const ownKinds = ['user', ...madeKinds] as const;

/** Its part in a network. */
type Plugged = Pick<MachineSpec, 'id' | 'driver' | 'card'>;

const unknownAddresses =
  'what machines must not reach there is not known (hypervisor.hosts: addresses)';

/** The networks of machines on one host, made by its own libvirt. Everything may be repeated. */
export class HostNetworks {
  readonly name: string;
  readonly #options: HostNetworksOptions;
  /** Of kinds that cannot be had at present, why. */
  readonly #impossible = new Map<NetworkKind, string>();
  #isKnown = false;
  /** Nobody has looked yet, or the last look was cut short. */
  #isDue = true;
  #checked: Promise<void> = Promise.resolve();
  #denied: readonly string[] | undefined;
  /** Of the machines there; absent: it has not answered yet. */
  #driver: Driver | undefined;

  constructor(options: HostNetworksOptions) {
    this.#options = options;
    this.name = options.host;
  }

  /** What the site's configuration names and this host can do, beside none. */
  get offered(): readonly NetworkKind[] {
    return ownKinds.filter((kind) => this.#options.config[kind] && !this.whyNot(kind));
  }

  /** Why machines there cannot have a kind that the site's configuration names. */
  whyNot(kind: NetworkKind): string | undefined {
    if (kind === 'none') return undefined;
    return this.#isKnown
      ? this.#impossible.get(kind)
      : 'what networks it can have is not known yet';
  }

  /** When it is known what it can do, if it is about to be. */
  async settled(): Promise<void> {
    if (!this.#isKnown) await this.#checked;
  }

  /** Makes what the machine's card is plugged into. @throws as the hypervisor does */
  async ensure({ id, driver, card }: Plugged): Promise<void> {
    if (!card || card.kind === 'user') return;
    const { kind, host, mac, address } = card;
    const { hypervisor, installationId } = this.#options;
    this.#denied ??= await this.#learn(driver);
    const name = networkName(card, id, installationId);
    await hypervisor.ensureNetwork(driver, {
      name,
      filterXml: this.#filterXml(kind, this.#denied),
      ...(host !== undefined && { networkXml: this.#networkXml(kind, name, host, id) }),
    });
    if (address !== undefined) await hypervisor.ensureHost(driver, name, { mac, address });
  }

  /** Takes it away again, once the machine is gone. */
  async release({ id, driver, card }: Plugged): Promise<void> {
    if (card?.address === undefined) return;
    const { hypervisor, installationId } = this.#options;
    const name = networkName(card, id, installationId);
    if (card.kind === 'isolated') await hypervisor.removeNetwork(driver, name);
    else await hypervisor.removeHost(driver, name, card.mac);
  }

  /** Finds out what the host can do of what is configured. Its outcome counts for what is asked later. */
  async check(driver: Driver): Promise<void> {
    this.#driver = driver;
    this.#checked = this.#check(driver);
    await this.#checked;
  }

  /** Where that was cut short, or never begun, as on a host that was declared lost; its connection is as before. */
  async recheck(driver: Driver): Promise<void> {
    if (this.#isDue) await this.check(driver);
  }

  /**
   * Removes networks of target systems that were removed, where nothing of them is left.
   * @param isGone whether that is proven
   */
  async sweep(isGone: (targetId: string) => Promise<boolean>): Promise<void> {
    const { hypervisor, config, log, host } = this.#options;
    const driver = this.#driver;
    if (driver === undefined || !config.isolated) return;
    for (const { name, targetId } of await hypervisor.listNetworks(driver)) {
      if (targetId === undefined || !(await isGone(targetId))) continue;
      log.warn({ host, vmId: targetId, network: name }, 'a network of nobody is removed');
      await hypervisor.removeNetwork(driver, name);
    }
  }

  async #check(driver: Driver): Promise<void> {
    const { config, whyNoUserNetwork } = this.#options;
    this.#isDue = false;
    const userRefusal = config.user && (await whyNoUserNetwork());
    this.#settle('user', userRefusal);
    try {
      this.#denied = await this.#learn(driver);
      for (const kind of madeKinds)
        if (config[kind]) this.#settle(kind, await this.#whyFails(driver, kind, this.#denied));
    } catch (error) {
      this.#isDue = isPassing(error);
      if (this.#isDue) return;
      for (const kind of madeKinds) if (config[kind]) this.#settle(kind, errorText(error));
    }
    this.#isKnown = true;
  }

  /** @throws `CONFLICT` its own addresses are not known */
  async #learn(driver: Driver): Promise<readonly string[]> {
    const { addresses, hypervisor, host } = this.#options;
    const known = addresses();
    if (!known) throw new GridError('CONFLICT', unknownAddresses, { host });
    return [...known, ...(await hypervisor.foreignAddresses(driver))];
  }

  /** @throws what is worth another try */
  async #whyFails(
    driver: Driver,
    kind: SharedNetworkKind,
    denied: readonly string[],
  ): Promise<string | undefined> {
    try {
      return await this.#try(driver, kind, denied);
    } catch (error) {
      if (isPassing(error)) throw error;
      return `libvirt cannot make it there: ${errorText(error)}`;
    }
  }

  /** What is made for all machines stays; of the others one is made and removed. @returns what is missing */
  async #try(
    driver: Driver,
    kind: SharedNetworkKind,
    denied: readonly string[],
  ): Promise<string | undefined> {
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
      filterXml: this.#filterXml(kind, denied),
      ...(kind !== 'bridge' && { networkXml }),
    });
    if (kind === 'isolated') await hypervisor.removeNetwork(driver, name);
    const { name: bridge = '' } = config.bridge ?? {};
    if (kind === 'bridge' && (await hypervisor.hasBridge(driver, bridge)) === false)
      return `there is no bridge ${bridge}`;
    return undefined;
  }

  #settle(kind: NetworkKind, reason: string | undefined): void {
    const { log, host } = this.#options;
    const before = this.#impossible.get(kind);
    if (reason === undefined) {
      this.#impossible.delete(kind);
      if (before !== undefined) log.info({ host, kind }, 'a kind of network can be had');
      return;
    }
    this.#impossible.set(kind, reason);
    if (before !== reason)
      log.warn({ host, kind, reason }, 'a kind of network that is configured cannot be had');
  }

  #filterXml(kind: SharedNetworkKind, known: readonly string[]): string {
    const { config, installationId } = this.#options;
    const { nat, bridge, isolated } = config;
    const own = (kind === 'nat' ? nat?.deny : bridge?.deny) ?? [];
    // the host has addresses in the networks that it makes, which need not be there yet
    const network = [nat?.host, isolated?.range].filter((each) => each !== undefined);
    return filterXml(
      filterName(kind, installationId),
      guestRules(kind, {
        denied: [...new Set([...own, ...network, ...known])],
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
