import { element, type XmlNode } from '#kernel/xml/build.js';
import type { NetworkDefinition } from './hypervisor.js';
import { bandwidthXml } from './controls-xml.js';
import { filterXml, type Rule } from './network-filter.js';
import { dhcpNetworkXml } from './network-xml.js';
import type { TargetSystem } from './target-system.js';

/**
 * The network by which server and machines reach each other (ADR 016), and nothing else: libvirt's
 * filter on each machine's port admits call-backs to the server and the server's calls to the TSI's main.
 */
export type MachineNetwork = {
  /** Of libvirt's network, and of its filter. */
  readonly name: string;
  /** The server's address in it, IPv4. */
  readonly serverAddress: string;
  readonly prefixLength: number;
  readonly callbackPorts: { readonly first: number; readonly last: number };
};

/** What the hypervisor makes of it: a network without a way out, that gives addresses to machines. */
export function networkDefinition(network: MachineNetwork): NetworkDefinition {
  const { name, serverAddress, prefixLength } = network;
  const host = `${serverAddress}/${prefixLength}`;
  return { name, networkXml: dhcpNetworkXml({ name, host }), filterXml: filterXml(name, rules) };
}

/**
 * `in` and `out` as the machine sees them. Rules below 0 look at frames (who may be who, and whom a frame
 * is for), those above at connections: the machine's answers pass only as answers.
 */
const rules: readonly Rule[] = [
  ['drop', 'out', -900, 'mac', { match: 'no', srcmacaddr: '$MAC' }],
  ['accept', 'out', -800, 'ip', dhcp({ srcipaddr: '0.0.0.0' }, 68, 67)],
  ['accept', 'out', -800, 'ip', dhcp({ srcipaddr: '$IP', dstipaddr: '$SERVER' }, 68, 67)],
  ['accept', 'in', -800, 'ip', dhcp({ srcipaddr: '$SERVER' }, 67, 68)],
  ['accept', 'out', -700, 'arp', { arpsrcmacaddr: '$MAC', arpsrcipaddr: '$IP' }],
  ['accept', 'in', -700, 'arp', { arpsrcipaddr: '$SERVER' }],
  ['accept', 'out', -600, 'ip', { ...fromMachine(), ...callbackPorts() }],
  [
    'accept',
    'out',
    -600,
    'ip',
    { ...fromMachine(), srcportstart: '$MAIN', srcportend: '$LASTMAIN' },
  ],
  ['accept', 'in', -600, 'ip', { srcipaddr: '$SERVER', dstipaddr: '$IP', protocol: 'tcp' }],
  ['drop', 'inout', -500, 'mac', {}],
  ['accept', 'out', 100, 'udp', { srcportstart: 68, dstportstart: 67 }],
  ['accept', 'in', 100, 'udp', { srcportstart: 67, dstportstart: 68 }],
  ['accept', 'out', 100, 'tcp', { dstipaddr: '$SERVER', ...callbackPorts() }],
  [
    'accept',
    'in',
    100,
    'tcp',
    { srcipaddr: '$SERVER', dstportstart: '$MAIN', dstportend: '$LASTMAIN' },
  ],
  ['drop', 'inout', 1000, 'all', {}],
];

function dhcp(addresses: Record<string, string>, from: number, to: number) {
  return { ...addresses, protocol: 'udp', srcportstart: from, dstportstart: to };
}

function fromMachine() {
  return { srcipaddr: '$IP', dstipaddr: '$SERVER', protocol: 'tcp' };
}

function callbackPorts() {
  return { dstportstart: '$FIRSTPORT', dstportend: '$LASTPORT' };
}

/** The network card of a machine, on a port of the bridge from which no other machine can be seen. */
export function interfaceXml(
  system: Pick<TargetSystem, 'id' | 'image' | 'driver' | 'parameters'>,
  { name, serverAddress, callbackPorts: ports }: MachineNetwork,
): XmlNode {
  const { id, image } = system;
  const { tsi } = image.metadata;
  const parameters = {
    // what the network's DHCP server gave it is its address, whatever it says
    CTRL_IP_LEARNING: 'dhcp',
    DHCPSERVER: serverAddress,
    SERVER: serverAddress,
    FIRSTPORT: ports.first,
    LASTPORT: ports.last,
    MAIN: tsi.port,
    LASTMAIN: tsi.port + tsi.count - 1,
  };
  return element(
    'interface',
    { type: 'network' },
    element('mac', { address: macAddress(id) }),
    element('source', { network: name }),
    element('model', { type: 'virtio' }),
    element('rom', { enabled: 'no' }),
    bandwidthXml(system),
    element('port', { isolated: 'yes' }),
    element(
      'filterref',
      { filter: name },
      ...Object.entries(parameters).map(([key, value]) =>
        element('parameter', { name: key, value }),
      ),
    ),
  );
}

/** Locally administered, and always the same for a target system. */
export function macAddress(id: string): string {
  const digits = id.replaceAll('-', '').slice(0, 10);
  return ['52', ...(digits.match(/../g) ?? [])].join(':');
}
