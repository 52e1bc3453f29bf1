import { BlockList, isIP } from 'node:net';
import { z } from 'zod';
import { file, port } from '#kernel/config.js';
import { MetricsConfig } from '#kernel/metrics.js';
import { ApiTokens } from './api-tokens/config.js';

const seconds = (initial: number) => z.number().positive().max(86_400).default(initial);
const count = (initial: number) => z.int().positive().default(initial);

/** Appears in URLs and on the front page. */
export const siteName = z
  .string()
  .regex(/^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$/, 'must be a word of at most 64 characters');
const siteAddress = z
  .string()
  .max(1024)
  .refine(
    (text) => /^unix:\/./.test(text) || (URL.canParse(text) && text.startsWith('https://')),
    'must be unix:/path/of.sock or https://host:port',
  );
const siteGroup = z.strictObject({
  addresses: z.array(siteAddress).min(1).max(32),
  /** The first that lives, or each of those that live in turn. */
  strategy: z.enum(['primaryWithFallback', 'roundRobin']).default('primaryWithFallback'),
  healthCheckSeconds: seconds(5),
});
const site = z.union([siteAddress, siteGroup], {
  error: 'must be unix:/path/of.sock, https://host:port, or {addresses, strategy} of several',
});

const network = z
  .string()
  .refine((text) => tryNetwork(text), 'must be an address or a network such as 10.0.0.0/8');

function tryNetwork(text: string): boolean {
  try {
    addNetwork(new BlockList(), text);
    return true;
  } catch {
    return false;
  }
}

/** @throws for what is no address and no network */
export function addNetwork(list: BlockList, text: string): void {
  const [address = '', bits] = text.split('/');
  const family = isIP(address) === 6 ? 'ipv6' : 'ipv4';
  if (bits === undefined) list.addAddress(address, family);
  else if (/^\d{1,3}$/.test(bits)) list.addSubnet(address, Number(bits), family);
  else throw new TypeError(`no network: ${text}`);
}

const Tls = z
  .strictObject({
    keyFile: file,
    /** The certificate, then the authorities between it and a root. */
    certFile: file,
    /** Authorities that issue our clients' certificates. */
    trustFiles: z.array(file).default([]),
    /** A folder of such authorities and of revocation lists, PEM or DER, whatever their names. */
    trustDir: file.optional(),
    /** DER, as `openssl ocsp -respout` writes it: stapled to the certificate. */
    ocspFile: file.optional(),
  })
  .refine(({ trustFiles, trustDir }) => trustFiles.length > 0 || trustDir !== undefined, {
    error: 'trustFiles or trustDir must name authorities',
    path: ['trustFiles'],
  });

/** The first whose path fits a request counts. */
const Route = z.strictObject({
  /** Default: all sites. */
  site: siteName.optional(),
  /** Below the site; whole elements, so `/rest/core` fits `/rest/core/jobs` and not `/rest/corex`. */
  path: z.string().startsWith('/').max(1024),
  bodyBytes: z.int().nonnegative().optional(),
  /** For the whole request with its answer. */
  seconds: z.number().positive().max(604_800).optional(),
});

const Registration = z.strictObject({
  /** At least 16 characters; sites send it along. */
  secretFile: file,
  /** Hosts whose sites may register, `*.example.org` or `host:port`; default: any. */
  allow: z.array(z.string().min(1)).optional(),
  deny: z.array(z.string().min(1)).default([]),
});

const Cors = z.strictObject({
  /** `https://portal.example`; `*` for any. */
  origins: z.array(z.union([z.literal('*'), z.url()])).min(1),
  methods: z.array(z.string()).default(['GET', 'HEAD', 'POST', 'PUT', 'DELETE', 'OPTIONS']),
  headers: z.array(z.string()).optional(),
  exposedHeaders: z.array(z.string()).default(['Location', 'X-UNICORE-SecuritySession']),
  maxAgeSeconds: z.int().nonnegative().max(86_400).default(3_600),
});

const Limits = z.strictObject({
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
  /** How long a resting connection may still bring a last request when the gateway closes. */
  lastRequestSeconds: seconds(0.5),
});

/** Where `apiTokens` is, and no site. */
export const tokensPath = 'generate-token';

export const GatewayConfig = z
  .strictObject({
    listen: z.strictObject({ host: z.string().default('::'), port }),
    /** Processes that share the work; limits on connections are shared out among them. */
    workers: z.int().min(1).max(64).default(1),
    tls: Tls,
    /** Key that signs the names of clients for the sites; RSA for stock UNICORE servers. */
    signingKeyFile: file,
    /** Also send the older signed name, which stock UNICORE servers read; it does not bind the request. */
    legacyConsignor: z.boolean().default(true),
    sites: z.record(siteName, site).refine((sites) => {
      const names = Object.keys(sites).map((name) => name.toLowerCase());
      return new Set(names).size === names.length;
    }, 'names must differ in more than their case'),
    /** What `GET /` tells everybody: names and states of the sites, or nothing. */
    frontPage: z.enum(['sites', 'bare']).default('sites'),
    /** Whose `X-Forwarded-For`, `-Host` and `-Proto` count. */
    proxies: z.array(network).default([]),
    registration: Registration.optional(),
    cors: Cors.optional(),
    /** Absent: the gateway gives no tokens; sites do so by themselves. */
    apiTokens: ApiTokens.optional(),
    /** Tokens that prove to a certificate authority that this name is ours (RFC 8555, 8.3). */
    acme: z.strictObject({ tokenDir: file, httpPort: port.optional() }).optional(),
    routes: z.array(Route).default([]),
    /** How often configuration, certificates and revocation lists are looked at for changes. */
    reloadSeconds: seconds(2),
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
    limits: Limits.prefault({}),
    /** Absent: nothing is counted. */
    metrics: MetricsConfig.optional(),
  })
  .refine(({ workers, metrics }) => workers === 1 || !metrics, {
    path: ['metrics'],
    error: 'are those of one process: workers must be 1',
  })
  .refine(
    ({ sites, apiTokens }) =>
      Object.keys(apiTokens?.sites ?? {}).every((name) => Object.hasOwn(sites, name)),
    { path: ['apiTokens', 'sites'], error: 'must be among sites, spelt as there' },
  )
  .refine(
    ({ sites, apiTokens }) =>
      !apiTokens || Object.keys(sites).every((name) => name.toLowerCase() !== tokensPath),
    { path: ['sites'], error: `${tokensPath} is what apiTokens is at` },
  );
export type GatewayConfig = z.output<typeof GatewayConfig>;
export type SiteConfig = z.output<typeof site>;
