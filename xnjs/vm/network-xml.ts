import { element, toXml, type XmlNode } from '#kernel/xml/build.js';
import { baseOf, parseRange, sizeOf, toAddress } from './ipv4.js';

/**
 * Not for ever: libvirt 9 takes the expiry of an endless lease for one that has passed, and shuts the
 * machine off.
 */
const leaseHours = 24;

export type DhcpNetwork = {
  readonly name: string;
  /** The host's address in it and its size, `10.178.0.1/16` */
  readonly host: string;
  readonly mark?: XmlNode;
  /** Of the host's side; absent: libvirt's choice. */
  readonly mac?: string;
  /** Out to the world, behind the host's address. */
  readonly nat?: boolean;
  /** Whether the host answers questions for names. */
  readonly dns?: boolean;
};

/** A network of libvirt's in which the host gives machines their addresses. */
export function dhcpNetworkXml({ name, host, mark, mac, nat, dns = false }: DhcpNetwork): string {
  const [address = '', prefix = ''] = host.split('/');
  const [start, end] = largerPart(host);
  const lease = element('lease', { expiry: leaseHours, unit: 'hours' });
  const dhcp = element('dhcp', {}, element('range', { start, end }, lease));
  // an address is offered without asking first whether somebody has it, which takes 3 s; names are the
  // world's, not those in the host's files
  const options = ['no-ping', ...(dns ? ['no-hosts', 'stop-dns-rebind'] : [])];
  return toXml(
    element(
      'network',
      { 'xmlns:dnsmasq': 'http://libvirt.org/schemas/network/dnsmasq/1.0' },
      element('name', {}, name),
      mark,
      nat === true && element('forward', { mode: 'nat' }),
      element('bridge', { stp: 'off', delay: 0 }),
      mac !== undefined && element('mac', { address: mac }),
      element('dns', { enable: dns ? 'yes' : 'no' }),
      element('ip', { address, prefix }, dhcp),
      element(
        'dnsmasq:options',
        {},
        ...options.map((value) => element('dnsmasq:option', { value })),
      ),
    ),
  );
}

/** A bridge, and nothing on it. */
export function bareNetworkXml(name: string, mark: XmlNode): string {
  const bridge = element('bridge', { stp: 'off', delay: 0 });
  return toXml(element('network', {}, element('name', {}, name), mark, bridge));
}

/** Addresses that are neither the network's own, nor the host's, nor for all; the host may be anywhere. */
function largerPart(host: string): [string, string] {
  const range = parseRange(host);
  const [base, size] = [baseOf(range), sizeOf(range)];
  return range.address - base < size / 2
    ? [toAddress(range.address + 1), toAddress(base + size - 2)]
    : [toAddress(base + 1), toAddress(range.address - 1)];
}
