import { createHash } from 'node:crypto';
import { element, toXml, type XmlNode } from '#kernel/xml/build.js';
import type { NetworkDefinition } from './hypervisor.js';
import { bandwidthXml } from './controls-xml.js';
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

/** What the hypervisor makes of it. */
export function networkDefinition(network: MachineNetwork): NetworkDefinition {
  const { name } = network;
  return { name, networkXml: networkXml(network), filterXml: filterXml(network) };
}

/**
 * Not for ever: libvirt 9 takes the expiry of an endless lease for one that has passed, and shuts the
 * machine off.
 */
const leaseHours = 24;

/** A network without a way out, that gives addresses to machines. */
export function networkXml({ name, serverAddress, prefixLength }: MachineNetwork): string {
  const [start, end] = hostRange(serverAddress, prefixLength);
  const lease = element('lease', { expiry: leaseHours, unit: 'hours' });
  const dhcp = element('dhcp', {}, element('range', { start, end }, lease));
  return toXml(
    element(
      'network',
      { 'xmlns:dnsmasq': 'http://libvirt.org/schemas/network/dnsmasq/1.0' },
      element('name', {}, name),
      element('bridge', { stp: 'off', delay: 0 }),
      element('dns', { enable: 'no' }),
      element('ip', { address: serverAddress, prefix: prefixLength }, dhcp),
      // an address is offered without asking first whether somebody has it, which takes 3 s
      element('dnsmasq:options', {}, element('dnsmasq:option', { value: 'no-ping' })),
    ),
  );
}

type Rule = readonly [
  action: 'accept' | 'drop',
  direction: 'in' | 'out' | 'inout',
  priority: number,
  protocol: string,
  match: Readonly<Record<string, string | number>>,
];

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

/** The same for all machines; what differs are parameters of the interface. */
export function filterXml({ name }: MachineNetwork): string {
  return toXml(
    element(
      'filter',
      { name, chain: 'root' },
      // by its name: a definition replaces the one before only if it has the same UUID
      element('uuid', {}, uuidOf(`nwfilter ${name}`)),
      ...rules.map(([action, direction, priority, protocol, match]) =>
        element('rule', { action, direction, priority }, element(protocol, match)),
      ),
    ),
  );
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

/** The addresses of an IPv4 network that are neither its own, nor the server's, nor for all. */
function hostRange(serverAddress: string, prefixLength: number): [string, string] {
  const server = toNumber(serverAddress);
  const size = 2 ** (32 - prefixLength);
  const base = server - (server % size);
  // the larger part: the server may be anywhere
  return server - base < size / 2
    ? [toAddress(server + 1), toAddress(base + size - 2)]
    : [toAddress(base + 1), toAddress(server - 1)];
}

function toNumber(address: string): number {
  return address.split('.').reduce((sum, part) => sum * 256 + Number(part), 0);
}

function toAddress(value: number): string {
  return [24, 16, 8, 0].map((shift) => Math.floor(value / 2 ** shift) % 256).join('.');
}

function uuidOf(text: string): string {
  const hex = createHash('sha256').update(`vsite ${text}`).digest('hex');
  return hex.replace(/^(.{8})(.{4}).(.{3}).(.{3})(.{12}).*/, '$1-$2-4$3-8$4-$5');
}
