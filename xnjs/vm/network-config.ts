import { z } from 'zod';
import { file, port } from '#kernel/config.js';
import type { Log } from '#kernel/log.js';
import type { Scope } from '#kernel/scope.js';
import { readText } from '#kernel/security/tls.js';
import { overlap } from './ipv4.js';
import type { TsiNetwork } from './tsi-network.js';
import { CallbackRange } from '../tsi/callback-range.js';

/** A host's address and the size of its network: `10.178.0.1/16` */
const hostInNetwork = (longestPrefix: number) =>
  z.cidrv4('must be an address with a prefix, such as 10.178.0.1/16').refine((text) => {
    const prefixLength = Number(text.split('/')[1]);
    return prefixLength >= 8 && prefixLength <= longestPrefix;
  }, `must have a prefix of 8 to ${longestPrefix} bits`);

/** libvirt's network for machines whose TSI is reached by TCP; made if it is missing. */
export const NetworkConfig = z.strictObject({
  name: z
    .string()
    .regex(/^[A-Za-z0-9_-]{1,50}$/)
    .default('vsite'),
  /** The server's address in it and the size of the network: `10.177.0.1/16` */
  server: hostInNetwork(30).default('10.177.0.1/16'),
});

export const range = z.union([z.cidrv4(), z.ipv4()], 'must be an IPv4 address or network');
/** What is nobody's in the world: this host, private networks, metadata services, many at once. */
const privateRanges = [
  ...['0.0.0.0/8', '10.0.0.0/8', '100.64.0.0/10', '127.0.0.0/8', '169.254.0.0/16'],
  ...['172.16.0.0/12', '192.0.0.0/24', '192.168.0.0/16', '198.18.0.0/15', '224.0.0.0/3'],
];

/** What of a network machines can have (ADR 036): kinds that are named are offered. */
export const NetworksConfig = z
  .strictObject({
    /** QEMU's own, in the network namespace of a libvirtd that has one for itself. */
    user: z.strictObject({}).optional(),
    /** Out to the world, behind the host's address. */
    nat: z
      .strictObject({
        host: hostInNetwork(29).default('10.178.0.1/16'),
        /** Whether machines of one owner reach each other; those of others never do. */
        peers: z.boolean().default(false),
        /** Whether the host answers questions for names. */
        dns: z.boolean().default(true),
        /** What no machine reaches, beside all addresses of the hosts. */
        deny: z.array(range).max(1_000).default(privateRanges),
      })
      .optional(),
    /** One for each target system, without a way out. */
    isolated: z
      .strictObject({
        /** Networks are cut from it. */
        range: z.cidrv4().default('10.179.0.0/16'),
        prefixLength: z.int().min(20).max(29).default(28),
      })
      .refine((own) => Number(own.range.split('/')[1]) <= own.prefixLength, {
        path: ['prefixLength'],
        error: 'must not be shorter than the prefix of range',
      })
      .optional(),
    /** A bridge that the operator has made, with a DHCP server behind it. */
    bridge: z
      .strictObject({
        name: z.string().regex(/^[A-Za-z0-9_.-]{1,15}$/, 'must be the name of a bridge'),
        deny: z.array(range).max(1_000).default(['127.0.0.0/8', '169.254.0.0/16']),
      })
      .optional(),
  })
  .refine(({ nat, isolated }) => !nat || !isolated || !overlap(nat.host, isolated.range), {
    path: ['isolated', 'range'],
    error: 'must have no address in common with nat.host',
  });
export type NetworksConfig = z.output<typeof NetworksConfig>;

/** TSIs with a classic main. */
export const TsiConfig = z.strictObject({
  /** Ports that TSIs call back; each serves one handshake at a time. */
  callback: z
    .strictObject({
      /** Absent: the server's address in the machines' network. */
      host: z.string().optional(),
      firstPort: port.default(7654),
      lastPort: port.default(7661),
    })
    .refine(({ firstPort, lastPort }) => firstPort <= lastPort, {
      path: ['lastPort'],
      error: 'must not be below firstPort',
    })
    .prefault({}),
  /** What the server proves itself by to TSIs, and whom it trusts where an image does not say. */
  tls: z.strictObject({ keyFile: file, certFile: file, caFile: file.optional() }).optional(),
});

type Config = {
  readonly hypervisor: { readonly network?: z.output<typeof NetworkConfig> | undefined };
  readonly tsi: z.output<typeof TsiConfig>;
};

/** @throws `CONFIG_INVALID` naming a file that cannot be read */
export async function openNetwork(
  { hypervisor: { network }, tsi: { callback, tls } }: Config,
  scope: Scope,
  log: Log,
): Promise<TsiNetwork | undefined> {
  if (!network) return undefined;
  const [serverAddress = '', prefixLength] = network.server.split('/');
  const { host = serverAddress, firstPort, lastPort } = callback;
  const credential = tls && {
    key: await readText(tls.keyFile),
    cert: await readText(tls.certFile),
    ...(tls.caFile !== undefined && { ca: await readText(tls.caFile) }),
  };
  return {
    name: network.name,
    serverAddress,
    prefixLength: Number(prefixLength),
    callbackPorts: { first: firstPort, last: lastPort },
    listener: scope.use(new CallbackRange({ host, firstPort, lastPort, log })),
    ...(credential && { credential }),
  };
}
