import { z } from 'zod';
import { file, port } from '#kernel/config.js';

const seconds = (initial: number) => z.number().positive().max(86_400).default(initial);
const count = (initial: number) => z.int().positive().default(initial);

/** Appears in URLs and on the front page. */
const siteName = z.string().regex(/^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$/, 'must be a word');
const siteAddress = z
  .string()
  .max(1024)
  .refine(
    (text) => /^unix:\/./.test(text) || (URL.canParse(text) && text.startsWith('https://')),
    'must be unix:/path/of.sock or https://host:port',
  );

export const GatewayConfig = z.strictObject({
  listen: z.strictObject({ host: z.string().default('::'), port }),
  tls: z.strictObject({
    keyFile: file,
    certFile: file,
    /** Authorities that issue our clients' certificates. */
    trustFiles: z.array(file).min(1),
  }),
  /** Key that signs the names of clients for the sites; RSA for stock UNICORE servers. */
  signingKeyFile: file,
  sites: z.record(siteName, siteAddress).refine((sites) => {
    const names = Object.keys(sites).map((name) => name.toLowerCase());
    return new Set(names).size === names.length;
  }, 'names must differ in more than their case'),
  upstream: z
    .strictObject({
      connectSeconds: seconds(10),
      /** Silence of a site that ends a request; long polls must be shorter. */
      idleSeconds: seconds(300),
      maxRequestsPerSite: count(256),
      /** Authorities of sites reached by https; the clients' by default. */
      trustFiles: z.array(file).optional(),
    })
    .prefault({}),
  limits: z
    .strictObject({
      headerBytes: z.int().min(1024).max(1_048_576).default(32_768),
      /** For the TLS handshake, and again for the head of a request. */
      headSeconds: seconds(15),
      /** How long a connection may rest between two requests. */
      keepAliveSeconds: seconds(65),
      /** A client that we wait for must move `minBytesPerSecond` on average, or is cut off. */
      slowSeconds: seconds(30),
      minBytesPerSecond: z.number().nonnegative().default(100),
      connections: count(10_000),
      connectionsPerClient: count(1_000),
      /** How long requests under way may take when the gateway closes. */
      drainSeconds: seconds(10),
    })
    .prefault({}),
});
export type GatewayConfig = z.output<typeof GatewayConfig>;
