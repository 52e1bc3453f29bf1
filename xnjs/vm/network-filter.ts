import { createHash } from 'node:crypto';
import { element, toXml } from '#kernel/xml/build.js';
import type { SharedNetworkKind } from './network-card.js';

/** One of libvirt's filters (nwfilter). `in` and `out` as the machine sees them; the lowest priority first. */
export type Rule = readonly [
  action: 'accept' | 'drop',
  direction: 'in' | 'out' | 'inout',
  priority: number,
  protocol: string,
  match: Readonly<Record<string, string | number>>,
];

/** The same for all machines; what differs are parameters of the interface. */
export function filterXml(name: string, rules: readonly Rule[]): string {
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

export function uuidOf(text: string): string {
  const hex = createHash('sha256').update(`vsite ${text}`).digest('hex');
  return hex.replace(/^(.{8})(.{4}).(.{3}).(.{3})(.{12}).*/, '$1-$2-4$3-8$4-$5');
}

/** Of the host's side of a network that we make: frames of the world and of the host itself come from it. */
export const hostMac = '52:ff:ff:ff:ff:fe';
/** Cards of one owner differ in what is left of it (`$OWNER`). */
const ownerMask = 'ff:ff:ff:ff:00:00';

export type GuestRules = {
  /** Networks and addresses that no machine reaches, `10.0.0.0/8`. */
  readonly denied: readonly string[];
  /** Whether machines of one owner reach each other. */
  readonly peers: boolean;
  /** Whether the host answers questions for names. */
  readonly dns: boolean;
};

/**
 * Rules about single frames, so that they need nothing of the host but its bridge. Nobody sends as somebody
 * else; nobody reaches what is denied, the host among it, or hears of it; what is neither IPv4 nor ARP goes
 * nowhere. By kind of network: which frames have an end that a machine may talk to.
 */
export function guestRules(kind: SharedNetworkKind, options: GuestRules): Rule[] {
  return [
    ['drop', 'out', -900, 'mac', { match: 'no', srcmacaddr: '$MAC' }],
    ...dhcpRules(kind),
    ['accept', 'out', -700, 'arp', { arpsrcmacaddr: '$MAC', arpsrcipaddr: '$IP' }],
    ['drop', 'out', -690, 'ip', { match: 'no', srcipaddr: '$IP' }],
    ['drop', 'out', -690, 'ip', { protocol: 'udp', srcportstart: 67 }],
    ...(kind === 'bridge' ? bridgeRules(options) : ownRules(kind, options)),
    ['drop', 'inout', -400, 'mac', {}],
  ];
}

/** Before a machine has its address, and when it asks to keep it. */
function dhcpRules(kind: SharedNetworkKind): Rule[] {
  const toServer = { protocol: 'udp', srcportstart: 68, dstportstart: 67 };
  const toClient = { protocol: 'udp', srcportstart: 67, dstportstart: 68 };
  const server = kind === 'bridge' ? {} : { srcmacaddr: hostMac, srcipaddr: '$SERVER' };
  const asked = kind === 'bridge' ? {} : { dstipaddr: '$SERVER' };
  return [
    ['accept', 'out', -800, 'ip', { srcipaddr: '0.0.0.0', ...toServer }],
    ['accept', 'out', -800, 'ip', { srcipaddr: '$IP', ...asked, ...toServer }],
    ['accept', 'in', -800, 'ip', { ...server, ...toClient }],
  ];
}

/** Of a network that we make: what comes from others than the host comes from the owner's own machines. */
function ownRules(kind: 'nat' | 'isolated', { denied, peers, dns }: GuestRules): Rule[] {
  const fromHost = { srcmacaddr: hostMac };
  const fromOwner = { srcmacaddr: '$OWNER', srcmacmask: ownerMask };
  const toOwner = { dstmacaddr: '$OWNER', dstmacmask: ownerMask };
  const names = ['udp', 'tcp'].flatMap((protocol): Rule[] => [
    ['accept', 'out', -600, 'ip', { dstipaddr: '$SERVER', protocol, dstportstart: 53 }],
    ['accept', 'in', -600, 'ip', { ...fromHost, srcipaddr: '$SERVER', protocol, srcportstart: 53 }],
  ]);
  return [
    ['accept', 'in', -700, 'arp', { ...fromHost, arpsrcipaddr: '$SERVER' }],
    ...(dns ? names : []),
    ...(peers || kind === 'isolated'
      ? ([
          ['accept', 'in', -700, 'arp', fromOwner],
          ['accept', 'out', -600, 'ip', toOwner],
          ['accept', 'in', -600, 'ip', { ...fromOwner, dstipaddr: '$IP' }],
        ] satisfies Rule[])
      : []),
    // that a packet was too large for the way
    ['accept', 'in', -600, 'ip', { ...fromHost, srcipaddr: '$SERVER', protocol: 'icmp' }],
    ...(kind === 'nat' ? worldRules(denied, { dstmacaddr: hostMac }, fromHost) : []),
  ];
}

/** Of an operator's: ports are isolated there, and what is on it is his to say. */
function bridgeRules({ denied }: GuestRules): Rule[] {
  return [['accept', 'in', -700, 'arp', { arpdstipaddr: '$IP' }], ...worldRules(denied, {}, {})];
}

type Match = Readonly<Record<string, string | number>>;

function worldRules(denied: readonly string[], to: Match, from: Match): Rule[] {
  return [
    ...denied.flatMap((range): Rule[] => {
      const [address = '', prefixLength = 32] = range.split('/');
      return [
        ['drop', 'out', -500, 'ip', { dstipaddr: address, dstipmask: prefixLength }],
        ['drop', 'in', -500, 'ip', { srcipaddr: address, srcipmask: prefixLength }],
      ];
    }),
    ['accept', 'out', -450, 'ip', { ...to, srcipaddr: '$IP' }],
    ['accept', 'in', -450, 'ip', { ...from, dstipaddr: '$IP' }],
  ];
}
