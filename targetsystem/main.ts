import { createPrivateKey, X509Certificate, type KeyObject } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { systemClock } from '#kernel/clock.js';
import { believesCertificates, openAddress } from '#kernel/http/direct-tls.js';
import { listen } from '#kernel/http/listen.js';
import type { LocalService } from '#kernel/http/local.js';
import type { ApiInfo } from '#kernel/http/openapi/document.js';
import { createRestApp, mount } from '#kernel/http/router.js';
import type { Log } from '#kernel/log.js';
import { countRequests } from '#kernel/http/request-metrics.js';
import { openMetrics } from '#kernel/metrics.js';
import { Scope } from '#kernel/scope.js';
import type { Audit } from '#kernel/security/audit.js';
import { consignorHeader, createConsignorSigner } from '#kernel/security/consignor.js';
import { formatDn, issuerDn, parseDn, subjectDn } from '#kernel/security/dn.js';
import { openIdentity } from '#kernel/security/open-identity.js';
import { createTokenIssuer, type LearnedKeys, type TokenIssuer } from '#kernel/security/tokens.js';
import { startXnjs, type Xnjs } from '#xnjs/index.js';
import { namesAddress, type TargetsystemConfig } from './config.js';
import { registerAtGateways } from './registry/gateways.js';
import { openRegistry, readExternal, type Registry } from './registry/open-registry.js';
import { publishEntries, type ExternalRegistry } from './registry/publisher.js';
import type { RepeatedCalls } from './registry/repeated-calls.js';
import { ServerKeys } from './registry/server-keys.js';
import type { RestDeps } from './rest/deps.js';
import { restOperations } from './rest/operations.js';
import { EventStreams } from './rest/event-streams.js';
import { Consoles } from './rest/consoles.js';
import { openForwardings } from './rest/forwarding.js';
import { openScreens } from './rest/screen.js';
import { ownEntries } from './rest/registry.js';

export { TargetsystemConfig } from './config.js';

/** Clients compare it with those of UNICORE/X: it is the version of the interface that we speak. */
const interfaceVersion = '11.1.0';

export type Targetsystem = {
  /** Absent when it listens on a unix socket. */
  readonly port?: number;
  /** For a gateway in this process. */
  readonly local: LocalService;
  /** Requests under way may finish; machines and jobs run on. Closing twice is fine. */
  close(): Promise<void>;
};

/** Starts the target system service with its execution engine. */
export async function startTargetsystem(
  config: TargetsystemConfig,
  deps: { log: Log },
): Promise<Targetsystem> {
  const log = deps.log.child({ part: 'targetsystem' });
  const scope = new Scope();
  try {
    const credential = await readCredential(config.credential);
    const { certificate, key, dn: serverDn } = credential;
    const sign = createConsignorSigner(key);
    const issueToken = createTokenIssuer(key, serverDn, systemClock);
    const metrics = await openMetrics(config.metrics, scope, log);
    // the engine comes before what authenticates its users
    const later: { audit?: Audit; gateways?: RepeatedCalls } = {};
    const xnjs = await startXnjs(config.xnjs, {
      log: deps.log,
      metrics,
      audit: (decision, reqId) => later.audit?.(decision, reqId),
      siteUrl: config.externalUrl,
      serverDn,
      issueToken,
      onBehalfOf: (dn) => ({ [consignorHeader]: sign(parseDn(dn)) }),
    });
    scope.defer(() => xnjs.close());
    void xnjs.lost.then(() => scope.close()); // what it began is the other server's now
    const direct = believesCertificates(config.listen);
    const own = { dn: serverDn, certificate };
    const { siteName } = config;
    const external = await readExternal(config.registry);
    const gateways = () => later.gateways?.status() ?? {};
    const parts = { xnjs, credential, issueToken, external, gateways, scope, log: deps.log };
    const rest = await openRest(config, parts);
    const learned = learnKeys(config.registry, external, rest.registry, parts);
    const identity = await openIdentity(config, {
      ...{ log, scope, own, learned, siteName, direct, metrics },
    });
    later.audit = identity.audit;
    const app = createRestApp({
      mounts: Object.entries(restOperations).map(([prefix, operations]) =>
        mount(prefix, operations, rest),
      ),
      ...identity,
      externalUrl: config.externalUrl,
      log,
      onAnswered: metrics && countRequests(metrics),
      api: describe(siteName),
    });
    const { address, follow } = await openAddress(config.listen);
    const listening = await listen(app, address, scope, { upgrades: true });
    follow(listening, { scope, log });
    const { port, local } = listening;
    later.gateways = scope.use(registerSite(config, port, deps.log));
    scope.use(rest.events); // they end before the server waits for its answers
    log.info({ port }, 'target system service listens');
    return { ...(port !== undefined && { port }), local, close: () => scope.close() };
  } catch (error) {
    await scope.close();
    throw error;
  }
}

/** The server's own, by which it signs. */
type Credential = {
  readonly certificate: X509Certificate;
  readonly key: KeyObject;
  readonly dn: string;
};

async function readCredential(files: TargetsystemConfig['credential']): Promise<Credential> {
  const certificate = new X509Certificate(await readFile(files.certFile));
  const key = createPrivateKey(await readFile(files.keyFile));
  return { certificate, key, dn: formatDn(subjectDn(certificate)) };
}

type RestParts = {
  readonly xnjs: Xnjs;
  readonly credential: Credential;
  readonly issueToken: TokenIssuer;
  readonly external: readonly ExternalRegistry[];
  /** Whether gateways know of this site. */
  readonly gateways: () => ReturnType<RepeatedCalls['status']>;
  readonly scope: Scope;
  readonly log: Log;
};

/** What the operations work with; tells other registries of this site. */
async function openRest(
  config: TargetsystemConfig,
  { xnjs, credential: { certificate, dn }, issueToken, external, gateways, scope, log }: RestParts,
): Promise<RestDeps> {
  const { systems, jobs, machines, submission, reservations, storages, data, idb } = xnjs;
  const { savedImages } = xnjs;
  const rest: RestDeps = {
    ...{ systems, jobs, machines, submission, reservations, storages, data, idb, savedImages },
    events: new EventStreams(xnjs.feed, config.events),
    registry: await openRegistry(config.registry, xnjs.database, scope, log),
    siteName: config.siteName,
    version: interfaceVersion,
    startedMs: systemClock.now(),
    clock: systemClock,
    consoles: scope.use(new Consoles({ systems, config: config.console })),
    forwardings: scope.use(openForwardings(jobs, config.forwarding)),
    screens: scope.use(openScreens(systems, config.screen)),
    connections: () => ({ ...xnjs.connections(), ...publisher.status(), ...gateways() }),
    defaultImage: config.defaultImage,
    imagesUrl: (baseUrl) =>
      `${baseUrl.slice(0, baseUrl.lastIndexOf('/'))}/${config.imagesSite}/rest/images`,
    issueToken,
    credential: {
      dn,
      issuer: formatDn(issuerDn(certificate)),
      expiresMs: Date.parse(certificate.validTo),
      pem: certificate.toString(),
    },
  };
  const publisher = scope.use(
    publishEntries({
      registries: external,
      entries: () => ownEntries(rest, config.externalUrl.replace(/\/+$/, '')),
      token: () => issueToken({ subject: dn, lifetimeSeconds: 300 }),
      clock: systemClock,
      log,
    }),
  );
  return rest;
}

/** Of servers that may speak for users, where a registry is trusted with that. */
function learnKeys(
  { trustKeys }: TargetsystemConfig['registry'],
  external: readonly ExternalRegistry[],
  { entries }: Registry,
  { scope, log }: Pick<RestParts, 'scope' | 'log'>,
): LearnedKeys {
  const keys = new ServerKeys({
    registries: external.filter((registry) => registry.trustKeys),
    own: () => (trustKeys ? entries.list() : []),
    clock: systemClock,
    log,
  });
  return scope.use(keys).of;
}

function describe(siteName: string): ApiInfo {
  return {
    title: `${siteName}: target systems, jobs and files`,
    version: interfaceVersion,
    description:
      'The REST interface of UNICORE for a site whose target systems are machines that users ' +
      'bring along. Lists are paged by offset and num; fields=a,b selects members, ' +
      'fields=!c leaves one out.',
  };
}

/** @param port where it really listens */
function registerSite(
  { gateways, siteName, listen: where }: TargetsystemConfig,
  port: number | undefined,
  log: Log,
): RepeatedCalls {
  const named = namesAddress(where) && port !== undefined;
  const address = named ? `https://${urlHost(where.host)}:${port}` : undefined;
  return registerAtGateways({ gateways, siteName, address, clock: systemClock, log });
}

const urlHost = (host: string): string => (host.includes(':') ? `[${host}]` : host);
