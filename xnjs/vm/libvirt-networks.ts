import { isIPv4 } from 'node:net';
import { GridError } from '#kernel/errors.js';
import type { LibvirtClient } from '#kernel/libvirt/client.js';
import { hasRefused } from '#kernel/libvirt/errors.js';
import type { Network } from '#kernel/libvirt/procedures.js';
import { element, toXml, type XmlNode } from '#kernel/xml/build.js';
import { parseXml } from '#kernel/xml/parse.js';
import { attributeOf, childrenOf, findBelow } from '#kernel/xml/read.js';
import type { NetworkDefinition } from './hypervisor.js';
import type { Driver } from './target-system.js';

/** An entry of a network's DHCP server. */
export type NetworkHost = { readonly mac: string; readonly address: string };
/** A network that carries the mark of this installation. */
export type OwnNetwork = { readonly name: string; readonly targetId?: string };

/** What the controller needs of networks. Every call may be repeated. @throws as `Hypervisor` */
export type NetworkHypervisor = {
  ensureNetwork(driver: Driver, network: NetworkDefinition): Promise<void>;
  /** This card gets this address, and no other card does. */
  ensureHost(driver: Driver, network: string, host: NetworkHost): Promise<void>;
  removeHost(driver: Driver, network: string, mac: string): Promise<void>;
  /** One that is not there is fine. */
  removeNetwork(driver: Driver, name: string): Promise<void>;
  /** Those of this installation only. */
  listNetworks(driver: Driver): Promise<OwnNetwork[]>;
  /** Addresses that the host has in networks of others that libvirt there knows, `192.168.122.1`. */
  foreignAddresses(driver: Driver): Promise<string[]>;
  /** @returns `undefined`: libvirt there cannot tell */
  hasBridge(driver: Driver, name: string): Promise<boolean | undefined>;
};

/** libvirt's words for one entry of a network that runs. */
const addLast = 3;
const remove = 2;
const hosts = 4;
const live = 1;

/** Marks our networks among those of a host (`metadata` of libvirt's networks). */
const networkNamespace = 'urn:vsite:network:1';

export function networkMark(installation: string, targetId?: string): XmlNode {
  const mark = { 'xmlns:vsite': networkNamespace, installation, target: targetId };
  return element('metadata', {}, element('vsite:network', mark));
}

/** {@link NetworkHypervisor} on libvirt's RPC protocol. */
export class LibvirtNetworks implements NetworkHypervisor {
  readonly #clients: Partial<Readonly<Record<Driver, LibvirtClient>>>;
  readonly #installationId: string;

  constructor(clients: Partial<Readonly<Record<Driver, LibvirtClient>>>, installationId: string) {
    this.#clients = clients;
    this.#installationId = installationId;
  }

  async ensureNetwork(driver: Driver, network: NetworkDefinition): Promise<void> {
    await ensureNetwork(this.#client(driver), network);
  }

  async ensureHost(driver: Driver, network: string, host: NetworkHost): Promise<void> {
    const client = this.#client(driver);
    const { net } = await client.call('network_lookup_by_name', { name: network });
    const others = await hostsOf(client, net);
    if (others.some(({ mac, address }) => mac === host.mac && address === host.address)) return;
    // what a machine that is gone has left
    for (const other of others)
      if (other.mac === host.mac || other.address === host.address)
        await update(client, net, remove, other);
    await update(client, net, addLast, host);
  }

  async removeHost(driver: Driver, network: string, mac: string): Promise<void> {
    const client = this.#client(driver);
    const net = await find(client, network);
    const host = net && (await hostsOf(client, net)).find((each) => each.mac === mac);
    if (net && host) await update(client, net, remove, host);
  }

  async removeNetwork(driver: Driver, name: string): Promise<void> {
    const client = this.#client(driver);
    const net = await find(client, name);
    if (!net) return;
    try {
      await client.call('network_destroy', { net });
    } catch (error) {
      if (!hasRefused(error, 'noNetwork')) throw error;
    }
  }

  async listNetworks(driver: Driver): Promise<OwnNetwork[]> {
    const client = this.#client(driver);
    const ours: OwnNetwork[] = [];
    for (const net of await all(client)) {
      const root = net.name.startsWith('vsite-') && (await describe(client, net));
      const mark = root && this.#ownMark(root);
      if (!mark) continue;
      const targetId = attributeOf(mark, 'target');
      ours.push({ name: net.name, ...(targetId !== undefined && { targetId }) });
    }
    return ours;
  }

  async foreignAddresses(driver: Driver): Promise<string[]> {
    const client = this.#client(driver);
    const found: string[] = [];
    for (const net of await all(client)) {
      const root = await describe(client, net);
      if (!root || this.#ownMark(root)) continue;
      const own = childrenOf(root).filter(({ localName }) => localName === 'ip');
      found.push(...own.flatMap((ip) => attributeOf(ip, 'address') ?? []));
    }
    return found.filter(isIPv4);
  }

  async hasBridge(driver: Driver, name: string): Promise<boolean | undefined> {
    const client = this.#client(driver);
    try {
      const { iface } = await client.call('interface_lookup_by_name', { name });
      const { xml } = await client.call('interface_get_xml_desc', { iface, flags: 0 });
      return attributeOf(parseXml(xml).documentElement, 'type') === 'bridge';
    } catch (error) {
      if (hasRefused(error, 'noInterface')) return false;
      if (hasRefused(error, 'noSupport')) return undefined;
      throw error;
    }
  }

  #ownMark(network: Element): Element | undefined {
    const mark = findBelow(network, ({ namespaceURI }) => namespaceURI === networkNamespace);
    return mark && attributeOf(mark, 'installation') === this.#installationId ? mark : undefined;
  }

  #client(driver: Driver): LibvirtClient {
    const client = this.#clients[driver];
    if (client) return client;
    throw new GridError('HYPERVISOR_UNAVAILABLE', `no hypervisor is configured for ${driver}`);
  }
}

/** Makes filter and network if they are missing; without a definition, the filter alone. */
export async function ensureNetwork(
  client: LibvirtClient,
  { name, networkXml, filterXml }: NetworkDefinition,
): Promise<void> {
  await client.call('nwfilter_define_xml', { xml: filterXml });
  if (networkXml === undefined) return;
  try {
    const { net } = await client.call('network_lookup_by_name', { name });
    await client.call('network_create', { net });
  } catch (error) {
    if (hasRefused(error, 'operationInvalid')) return; // it is active
    if (!hasRefused(error, 'noNetwork')) throw error;
    await create(client, name, networkXml);
  }
}

/** Another of our calls may have made it meanwhile. */
async function create(client: LibvirtClient, name: string, xml: string): Promise<void> {
  try {
    await client.call('network_create_xml', { xml });
  } catch (error) {
    if (!(await find(client, name))) throw error;
  }
}

async function all(client: LibvirtClient): Promise<Network[]> {
  const listing = { need_results: 1, flags: 0 };
  return (await client.call('connect_list_all_networks', listing)).nets;
}

async function find(client: LibvirtClient, name: string): Promise<Network | undefined> {
  try {
    return (await client.call('network_lookup_by_name', { name })).net;
  } catch (error) {
    if (hasRefused(error, 'noNetwork')) return undefined;
    throw error;
  }
}

/** @returns `undefined`: it is gone */
async function describe(client: LibvirtClient, net: Network): Promise<Element | undefined> {
  try {
    const { xml } = await client.call('network_get_xml_desc', { net, flags: 0 });
    return parseXml(xml, { bytes: 16 * 1024 ** 2, elements: 200_000 }).documentElement;
  } catch (error) {
    if (hasRefused(error, 'noNetwork')) return undefined;
    throw error;
  }
}

async function hostsOf(client: LibvirtClient, net: Network): Promise<NetworkHost[]> {
  const root = await describe(client, net);
  const dhcp = root && findBelow(root, ({ localName }) => localName === 'dhcp');
  return (dhcp ? childrenOf(dhcp) : [])
    .filter(({ localName }) => localName === 'host')
    .map((host) => ({
      mac: attributeOf(host, 'mac') ?? '',
      address: attributeOf(host, 'ip') ?? '',
    }));
}

async function update(
  client: LibvirtClient,
  net: Network,
  command: number,
  { mac, address }: NetworkHost,
): Promise<void> {
  const xml = toXml(element('host', { mac, ip: address }));
  const args = { net, command, section: hosts, parent_index: -1, xml, flags: live };
  await client.call('network_update', args);
}
