import { z } from 'zod';
import { errorText } from '#kernel/errors.js';
import { normalizeDn } from '#kernel/security/dn.js';
import { file, port } from '#kernel/config.js';
import { DirectTls } from '#kernel/http/direct-tls.js';
import { MetricsConfig } from '#kernel/metrics.js';
import { identityConfig } from '#kernel/security/open-identity.js';
import { XnjsConfig } from '#xnjs/index.js';
import { CarryingConfig } from './rest/carried-connections.js';
import { ConsoleConfig } from './rest/consoles.js';
import { EventsConfig } from './rest/event-streams.js';

const distinguishedName = z.string().transform((text, context) => {
  try {
    return normalizeDn(text);
  } catch (error) {
    context.addIssue(errorText(error));
    return z.NEVER;
  }
});

/** This site's registry, and those elsewhere that are told of this site. */
export const RegistryConfig = z.strictObject({
  /** DNs of servers that may add entries here, besides administrators and those with the role `server`. */
  trustedDns: z.array(distinguishedName).default([]),
  /** Servers that have added an entry here may speak for users, by the key in it (delegation tokens). */
  trustKeys: z.boolean().default(false),
  /** An entry vanishes that is not refreshed within this time. */
  lifetimeSeconds: z.int().min(60).default(1_800),
  maxEntries: z.int().min(0).default(1_000),
  /** Registries that this site adds itself to. */
  external: z
    .array(
      z
        .strictObject({
          /** `https://host:port/SITE/rest/registries/default_registry` */
          url: z.url({ protocol: /^https?$/, error: 'must be a URL with http or https' }),
          /** Authority that its certificate comes from; absent: those that the system trusts. */
          caFile: file.optional(),
          /** Servers that are listed there may speak for users here, by the keys that are listed. */
          trustKeys: z.boolean().default(false),
        })
        .refine(({ url, trustKeys }) => !trustKeys || url.startsWith('https:'), {
          path: ['url'],
          error: 'must be https where keys are trusted',
        }),
    )
    .max(16)
    .default([]),
});
export type RegistryConfig = z.output<typeof RegistryConfig>;

/** A gateway elsewhere that this site registers at. */
const GatewayAtConfig = z.strictObject({
  /** `https://host:port`; the secret goes there. */
  url: z
    .url({ protocol: /^https$/, error: 'must be a URL with https' })
    .refine((url) => new URL(url).pathname === '/', 'must be https://host:port, without a path')
    .transform((url) => new URL(url).origin),
  /** The gateway's `registration.secretFile`. */
  secretFile: file,
  /** Authority that its certificate comes from; absent: those that the system trusts. */
  caFile: file.optional(),
  /** Where the gateway finds this site, `https://host:port`; default: what `listen` says. */
  address: z.url({ protocol: /^https$/, error: 'must be a URL with https' }).optional(),
  intervalSeconds: z.int().min(10).max(3_600).default(30),
});
export type GatewayAtConfig = z.output<typeof GatewayAtConfig>;

const wildcards = new Set(['', '::', '0.0.0.0', '[::]']);

/** Whether others can be told what `listen` says. */
export function namesAddress(listen: TargetsystemConfig['listen']): listen is ListenByTls {
  return 'host' in listen && !wildcards.has(listen.host);
}
type ListenByTls = Extract<TargetsystemConfig['listen'], { host: string }>;

const targetsystemConfig = z.strictObject({
  /** Name of this site behind the gateway. */
  siteName: z.string().regex(/^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$/, 'must be a word'),
  listen: z.union([
    z.strictObject({ unix: z.string() }),
    z.strictObject({ host: z.string(), port, tls: DirectTls }),
  ]),
  /** Address for links in answers to requests that did not come through the gateway. */
  externalUrl: z.url(),
  /** Name of the image repository's site at the same gateway. */
  imagesSite: z.string().default('IMAGES'),
  /** Our own key and certificate; signs for whom we ask the image repository. */
  credential: z.strictObject({ keyFile: file, certFile: file }),
  ...identityConfig,
  /** Image for jobs of users who have no target system yet; absent: such jobs are refused. */
  defaultImage: z.string().optional(),
  events: EventsConfig.prefault({}),
  /** Absent: nothing is counted. */
  metrics: MetricsConfig.optional(),
  registry: RegistryConfig.prefault({}),
  /** Where this site registers; for one that runs apart from its gateway. */
  gateways: z.array(GatewayAtConfig).max(16).default([]),
  console: ConsoleConfig.prefault({}),
  forwarding: CarryingConfig.prefault({}),
  screen: CarryingConfig.prefault({ perUser: 8, total: 128 }),
  xnjs: XnjsConfig,
});
export type TargetsystemConfig = z.output<typeof targetsystemConfig>;

export const TargetsystemConfig = targetsystemConfig.superRefine(
  ({ gateways, listen }, context) => {
    for (const [index, { address }] of gateways.entries())
      if (address === undefined && !namesAddress(listen))
        context.addIssue({
          code: 'custom',
          path: ['gateways', index, 'address'],
          message: 'must be given, since listen names no host that a gateway could connect to',
        });
  },
);
