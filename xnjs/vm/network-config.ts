import { z } from 'zod';
import { file, port } from '#kernel/config.js';
import type { Log } from '#kernel/log.js';
import type { Scope } from '#kernel/scope.js';
import { readText } from '#kernel/security/tls.js';
import type { TsiNetwork } from './tsi-network.js';
import { CallbackRange } from '../tsi/callback-range.js';

/** libvirt's network for machines whose TSI is reached by TCP; made if it is missing. */
export const NetworkConfig = z.strictObject({
  name: z
    .string()
    .regex(/^[A-Za-z0-9_-]{1,50}$/)
    .default('vsite'),
  /** The server's address in it and the size of the network: `10.177.0.1/16` */
  server: z.templateLiteral([z.ipv4(), '/', z.int().min(8).max(30)]).default('10.177.0.1/16'),
});

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
