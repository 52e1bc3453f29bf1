import { createHash } from 'node:crypto';
import type { NetworkKind } from '#imagerepo/contract.js';
import { GridError } from '#kernel/errors.js';
import { element, type XmlNode } from '#kernel/xml/build.js';
import { bandwidthXml } from './controls-xml.js';
import { baseOf, parseRange, sizeOf, toAddress } from './ipv4.js';
import type { NetworksConfig } from './network-config.js';
import { macAddress } from './network.js';
import type { MachineSpec, TargetSystem } from './target-system.js';

/** Those whose frames pass a filter of ours. */
export type SharedNetworkKind = Exclude<NetworkKind, 'none' | 'user'>;

/**
 * The network card of a machine: decided and stored before there is one, so that address and neighbours stay
 * what they are, whatever is started again.
 */
export type NetworkCard = {
  readonly kind: Exclude<NetworkKind, 'none'>;
  readonly mac: string;
  /** What its network's DHCP server gives it; absent: that is not ours. */
  readonly address?: string;
  /** The host's address in that network, `10.179.0.1/28` */
  readonly host?: string;
  /** The operator's bridge. */
  readonly bridge?: string;
  /** Its port of the bridge sees no other machine's. */
  readonly isolatedPort?: boolean;
};

type Held = Pick<TargetSystem, 'id' | 'ownerDn' | 'card'>;

/**
 * Pure: the first address and number that no other has.
 * @throws `QUOTA_EXCEEDED` all addresses are taken
 */
export function chooseCard(
  kind: NetworkCard['kind'],
  { id, ownerDn }: Omit<Held, 'card'>,
  networks: NetworksConfig,
  others: readonly Held[],
): NetworkCard {
  const { nat, isolated, bridge } = networks;
  if (kind === 'nat' && nat) {
    const { host } = nat;
    const address = freeAddress(host, others);
    return { kind, mac: ownersMac(ownerDn, others), address, host, isolatedPort: !nat.peers };
  }
  if (kind === 'isolated' && isolated) {
    const host = freeNetwork(isolated.range, isolated.prefixLength, others);
    return { kind, mac: ownersMac(ownerDn, others), address: freeAddress(host, []), host };
  }
  if (kind === 'bridge' && bridge)
    return { kind, mac: macAddress(id), bridge: bridge.name, isolatedPort: true };
  return { kind, mac: macAddress(id) };
}

/** The owner's three bytes and a number of the machine, each nobody else's: filters tell owners by them. */
function ownersMac(ownerDn: string, others: readonly Held[]): string {
  const numbered = others.flatMap(({ card, ownerDn: owner }) =>
    card?.address === undefined ? [] : [{ owner, bytes: bytesOf(card.mac) }],
  );
  const tagOf = (bytes: readonly number[]): number =>
    bytes.slice(1, 4).reduce((sum, byte) => sum * 256 + byte, 0);
  const taken = new Set(numbered.map(({ bytes }) => tagOf(bytes)));
  const mine = numbered.filter(({ owner }) => owner === ownerDn);
  const [first] = mine;
  let tag = first
    ? tagOf(first.bytes)
    : createHash('sha256').update(ownerDn).digest().readUIntBE(0, 3);
  // the host's own is the last
  while (!first && (taken.has(tag) || tag === 0xffffff)) tag = (tag + 1) % 0xffffff;
  const numbers = new Set(mine.map(({ bytes: [, , , , high = 0, low = 0] }) => high * 256 + low));
  const number = firstFree(65_536, (at) => numbers.has(at), 'network cards of one owner');
  return toMac([0x52, tag >> 16, (tag >> 8) & 255, tag & 255, number >> 8, number & 255]);
}

function freeAddress(host: string, others: readonly Held[]): string {
  const range = parseRange(host);
  const base = baseOf(range);
  const taken = new Set(others.flatMap(({ card }) => card?.address ?? []));
  taken.add(toAddress(range.address));
  // the first is the network's own, the last for all
  const count = sizeOf(range) - 2;
  return toAddress(
    base +
      1 +
      firstFree(count, (at) => taken.has(toAddress(base + 1 + at)), `addresses of ${host}`),
  );
}

/** @returns the host's address in it: the first */
function freeNetwork(range: string, prefixLength: number, others: readonly Held[]): string {
  const whole = parseRange(range);
  const size = sizeOf({ prefixLength });
  const spans = others.flatMap(({ card }) => {
    if (card?.kind !== 'isolated' || card.host === undefined) return [];
    const own = parseRange(card.host);
    return [[baseOf(own), baseOf(own) + sizeOf(own)] as const];
  });
  const isTaken = (at: number): boolean => {
    const [from, to] = [baseOf(whole) + at * size, baseOf(whole) + (at + 1) * size];
    return spans.some(([start, end]) => from < end && start < to);
  };
  const count = sizeOf(whole) / size;
  const at = firstFree(count, isTaken, `networks in ${range}`);
  return `${toAddress(baseOf(whole) + at * size + 1)}/${prefixLength}`;
}

function firstFree(count: number, isTaken: (at: number) => boolean, what: string): number {
  for (let at = 0; at < count; at++) if (!isTaken(at)) return at;
  throw new GridError('QUOTA_EXCEEDED', `parameters.network: all ${what} are taken`);
}

/** Not more than names of networks and filters may have, and nobody else's on a shared host. */
export function filterName(kind: SharedNetworkKind, installationId: string): string {
  return `vsite-${kind}-${installationId.slice(0, 8)}`;
}

/** @param id of the target system whose it is */
export function networkName(
  { kind }: Pick<NetworkCard, 'kind'>,
  id: string,
  installationId: string,
): string {
  return kind === 'isolated' ? `vsite-${id}` : `vsite-${kind}-${installationId.slice(0, 8)}`;
}

export function cardXml(
  system: MachineSpec & { readonly card: NetworkCard },
  installationId: string,
): XmlNode {
  const { id, card } = system;
  const { kind, mac, bridge, isolatedPort } = card;
  const hardware = [
    element('mac', { address: mac }),
    element('model', { type: 'virtio' }),
    element('rom', { enabled: 'no' }),
  ];
  if (kind === 'user') return element('interface', { type: 'user' }, ...hardware);
  return element(
    'interface',
    { type: kind === 'bridge' ? 'bridge' : 'network' },
    kind === 'bridge'
      ? element('source', { bridge: bridge ?? '' })
      : element('source', { network: networkName(card, id, installationId) }),
    ...hardware,
    bandwidthXml(system),
    isolatedPort === true && element('port', { isolated: 'yes' }),
    element(
      'filterref',
      { filter: filterName(kind, installationId) },
      ...Object.entries(filterParameters(card)).map(([name, value]) =>
        element('parameter', { name, value }),
      ),
    ),
  );
}

function filterParameters({ mac, address, host }: NetworkCard): Record<string, string> {
  // of the operator's: what the first answer of a DHCP server gave it is its address, whatever it says
  if (address === undefined || host === undefined) return { CTRL_IP_LEARNING: 'dhcp' };
  const owner = toMac([...bytesOf(mac).slice(0, 4), 0, 0]);
  return { IP: address, SERVER: host.split('/')[0] ?? '', OWNER: owner };
}

function bytesOf(mac: string): number[] {
  return mac.split(':').map((byte) => Number.parseInt(byte, 16));
}

function toMac(bytes: readonly number[]): string {
  return bytes.map((byte) => byte.toString(16).padStart(2, '0')).join(':');
}
