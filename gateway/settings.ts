import { createPrivateKey } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import type { TlsOptions } from 'node:tls';
import { systemClock } from '#kernel/clock.js';
import { ConfigError } from '#kernel/config.js';
import { errorText } from '#kernel/errors.js';
import { consignorHeader, createConsignorSigner } from '#kernel/security/consignor.js';
import { createConsignorTokenSigner, type Consigned } from '#kernel/security/consignor-token.js';
import type { Dn } from '#kernel/security/dn.js';
import { loadServerContext } from '#kernel/security/server-context.js';
import { readStaple, type Staple } from '#kernel/security/staple.js';
import { readText } from '#kernel/security/tls.js';
import { loadApiTokens } from './api-tokens/settings.js';
import type { ApiTokenSettings } from './api-tokens/generator.js';
import { Proxies } from './clients.js';
import type { GatewayConfig, SiteConfig } from './config.js';
import { createCors, type Cors } from './cors.js';
import { loadRegistration, type Registered, type RegistrationRules } from './registration.js';
import { createRouteLimits, type RouteLimits } from './routes.js';
import type { SiteOptions } from './site.js';

/** A configuration with all that its files hold: complete and checked, or not there at all. */
export type Settings = {
  readonly config: GatewayConfig;
  readonly tls: TlsOptions;
  /** Differs when other clients are to be believed. */
  readonly trustVersion: string;
  /** What is told of the gateway's own certificate; a text: why what there is cannot be. */
  readonly staple: Staple | string | undefined;
  readonly siteCa: readonly string[];
  /** Headers that tell a site who its client is. */
  readonly consign: (dn: Dn, request: Consigned) => readonly string[];
  readonly proxies: Proxies;
  readonly limitsOf: (site: string, path: string) => RouteLimits;
  readonly cors: Cors | undefined;
  readonly registration: RegistrationRules | undefined;
  readonly acmeDir: string | undefined;
  readonly apiTokens: ApiTokenSettings | undefined;
};

/**
 * @param ticketSecret all processes know it
 * @throws {@link ConfigError} `CONFIG_INVALID` naming the file
 */
export async function loadSettings(config: GatewayConfig, ticketSecret: Buffer): Promise<Settings> {
  const [{ tls, trustVersion, ca, cert }, signingKey, ocsp] = await Promise.all([
    loadServerContext(config.tls, ticketSecret),
    readText(config.signingKeyFile),
    config.tls.ocspFile === undefined ? undefined : readDer(config.tls.ocspFile),
  ]);
  const { trustFiles: siteTrust } = config.upstream;
  const siteCa = siteTrust ? await Promise.all(siteTrust.map(readText)) : ca;
  return {
    config,
    tls,
    trustVersion,
    staple: ocsp && stapleOf(ocsp, cert),
    siteCa,
    consign: createConsign(config, signingKey),
    proxies: new Proxies(config.proxies),
    limitsOf: createRouteLimits(config.routes),
    cors: config.cors && createCors(config.cors),
    registration: config.registration && (await loadRegistration(config.registration)),
    acmeDir: config.acme?.tokenDir,
    apiTokens: await loadApiTokens(config, upstreamOptions(config, siteCa), ticketSecret),
  };
}

/** All that a change of is a reason to load the settings again. */
export function watchedPaths(config: GatewayConfig, configFile: string | undefined): string[] {
  const { tls, signingKeyFile, registration, apiTokens, upstream } = config;
  return [
    ...[configFile, tls.keyFile, tls.certFile, ...tls.trustFiles, tls.trustDir, tls.ocspFile],
    ...[signingKeyFile, registration?.secretFile, ...(upstream.trustFiles ?? [])],
    ...[apiTokens?.clientSecretFile, apiTokens?.caFile],
  ].filter((path) => path !== undefined);
}

/** The sites of the configuration, and those that have registered. */
export function siteOptions(
  { config, siteCa }: Settings,
  registered: readonly Registered[],
): SiteOptions[] {
  const common = upstreamOptions(config, siteCa);
  const sites = new Map<string, SiteOptions>();
  for (const [name, site] of Object.entries(config.sites)) {
    const { addresses, strategy, healthCheckSeconds } = toGroup(site);
    const healthCheckMs = healthCheckSeconds * 1_000;
    sites.set(name.toLowerCase(), { ...common, name, addresses, strategy, healthCheckMs });
  }
  for (const { name, address } of registered) {
    const known = sites.get(name.toLowerCase());
    const site = known ?? { ...common, ...single, name, addresses: [] };
    const addresses = [...new Set([...site.addresses, address])];
    sites.set(name.toLowerCase(), { ...site, addresses });
  }
  return [...sites.values()];
}

function upstreamOptions({ upstream }: GatewayConfig, ca: readonly string[]) {
  return {
    ca,
    idleTimeoutMs: upstream.idleSeconds * 1_000,
    connectTimeoutMs: upstream.connectSeconds * 1_000,
    maxRequests: upstream.maxRequestsPerSite,
  };
}

const single = { strategy: 'primaryWithFallback', healthCheckMs: 5_000 } as const;

function toGroup(site: SiteConfig): Exclude<SiteConfig, string> {
  if (typeof site !== 'string') return site;
  return { addresses: [site], strategy: single.strategy, healthCheckSeconds: 5 };
}

function createConsign(config: GatewayConfig, signingKey: string): Settings['consign'] {
  const key = attempt(config.signingKeyFile, () => createPrivateKey(signingKey));
  const signToken = createConsignorTokenSigner(key);
  const sign = config.legacyConsignor ? createConsignorSigner(key) : undefined;
  return (dn, request) => {
    const token = signToken(dn, request);
    return sign ? [...token, consignorHeader, sign(dn)] : token;
  };
}

function stapleOf(response: Buffer, certificate: string): Staple | string {
  try {
    return readStaple(response, certificate, systemClock.now());
  } catch (error) {
    return errorText(error);
  }
}

async function readDer(path: string): Promise<Buffer> {
  try {
    return await readFile(path);
  } catch (cause) {
    throw new ConfigError('CONFIG_INVALID', errorText(cause), { path }, { cause });
  }
}

function attempt<T>(path: string, run: () => T): T {
  try {
    return run();
  } catch (cause) {
    const reason = `${path}: not usable: ${errorText(cause)}`;
    throw new ConfigError('CONFIG_INVALID', reason, { path }, { cause });
  }
}
