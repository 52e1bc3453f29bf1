import { createPrivateKey, X509Certificate } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { systemClock } from '#kernel/clock.js';
import { listen, type ListenAddress } from '#kernel/http/listen.js';
import { createRestApp, mount } from '#kernel/http/router.js';
import type { Log } from '#kernel/log.js';
import { Scope } from '#kernel/scope.js';
import { createAuthenticator, type Authenticate } from '#kernel/security/authenticate.js';
import { createBearers } from '#kernel/security/bearers.js';
import { consignorHeader, createConsignorSigner } from '#kernel/security/consignor.js';
import { formatDn, issuerDn, parseDn, subjectDn } from '#kernel/security/dn.js';
import { Sessions } from '#kernel/security/sessions.js';
import { createTokenIssuer } from '#kernel/security/tokens.js';
import { openUsers, type Users } from '#kernel/security/users.js';
import { startXnjs } from '#xnjs/index.js';
import type { TargetsystemConfig } from './config.js';
import { openRegistry, readExternal } from './registry/open-registry.js';
import { RegistryPublisher } from './registry/publisher.js';
import type { RestDeps } from './rest/deps.js';
import { restOperations } from './rest/operations.js';
import { ForwardingConnections } from './rest/forwarding-connections.js';
import { ownEntries } from './rest/registry.js';

export { TargetsystemConfig } from './config.js';

/** Clients compare it with those of UNICORE/X: it is the version of the interface that we speak. */
const interfaceVersion = '11.1.0';

export type Targetsystem = {
  /** Absent when it listens on a unix socket. */
  readonly port?: number;
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
    const certificate = new X509Certificate(await readFile(config.credential.certFile));
    const key = createPrivateKey(await readFile(config.credential.keyFile));
    const sign = createConsignorSigner(key);
    const serverDn = formatDn(subjectDn(certificate));
    const users = await openUsers(config.usersFile, { log });
    const xnjs = await startXnjs(config.xnjs, {
      log: deps.log,
      siteUrl: config.externalUrl,
      onBehalfOf: (dn) => ({ [consignorHeader]: sign(parseDn(dn)) }),
    });
    scope.defer(() => xnjs.close());
    const authenticate = await authenticator(config, users, certificate, log);
    const registry = await openRegistry(config.registry, xnjs.database, scope, deps.log);
    const rest: RestDeps = {
      registry,
      siteName: config.siteName,
      version: interfaceVersion,
      startedMs: systemClock.now(),
      clock: systemClock,
      systems: xnjs.systems,
      jobs: xnjs.jobs,
      machines: xnjs.machines,
      submission: xnjs.submission,
      reservations: xnjs.reservations,
      storages: xnjs.storages,
      data: xnjs.data,
      idb: xnjs.idb,
      forwardings: scope.use(
        new ForwardingConnections({
          jobs: xnjs.jobs,
          targets: xnjs.systems,
          config: config.forwarding,
        }),
      ),
      connections: () => ({ ...xnjs.connections(), ...publisher.status() }),
      defaultImage: config.defaultImage,
      imagesUrl: (baseUrl) =>
        `${baseUrl.slice(0, baseUrl.lastIndexOf('/'))}/${config.imagesSite}/rest/images`,
      issueToken: createTokenIssuer(key, serverDn, systemClock),
      credential: {
        dn: serverDn,
        issuer: formatDn(issuerDn(certificate)),
        expiresMs: Date.parse(certificate.validTo),
        pem: certificate.toString(),
      },
    };
    const publisher = scope.use(
      new RegistryPublisher({
        registries: await readExternal(config.registry),
        entries: () => ownEntries(rest, config.externalUrl.replace(/\/+$/, '')),
        token: () => rest.issueToken({ subject: serverDn, lifetimeSeconds: 300 }),
        clock: systemClock,
        log: deps.log,
      }),
    );
    const app = createRestApp({
      mounts: Object.entries(restOperations).map(([prefix, operations]) =>
        mount(prefix, operations, rest),
      ),
      authenticate,
      externalUrl: config.externalUrl,
      log,
    });
    const { port } = await listen(app, await toAddress(config.listen), scope, {
      upgrades: true,
    });
    log.info({ port }, 'target system service listens');
    return { ...(port !== undefined && { port }), close: () => scope.close() };
  } catch (error) {
    await scope.close();
    throw error;
  }
}

async function authenticator(
  { siteName, consignorFiles, sessionSeconds, bearers }: TargetsystemConfig,
  users: Users,
  certificate: X509Certificate,
  log: Log,
): Promise<Authenticate> {
  const serverDn = formatDn(subjectDn(certificate));
  return createAuthenticator({
    users,
    siteName,
    trustedSigners: await readCertificates(consignorFiles),
    sessions: new Sessions({ lifetimeMs: sessionSeconds * 1_000 }),
    bearers: await createBearers(bearers, { users, clock: systemClock, serverDn, certificate }),
    log,
  });
}

async function readCertificates(paths: readonly string[]): Promise<X509Certificate[]> {
  return await Promise.all(paths.map(async (path) => new X509Certificate(await readFile(path))));
}

async function toAddress(where: TargetsystemConfig['listen']): Promise<ListenAddress> {
  if ('unix' in where) return where;
  const [key, cert] = await Promise.all([
    readFile(where.tls.keyFile),
    readFile(where.tls.certFile),
  ]);
  return { host: where.host, port: where.port, tls: { key, cert } };
}
