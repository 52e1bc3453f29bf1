import { X509Certificate } from 'node:crypto';
import { z } from 'zod';
import { systemClock, type Clock } from '#kernel/clock.js';
import { file, port } from '#kernel/config.js';
import { believesCertificates, DirectTls, openAddress } from '#kernel/http/direct-tls.js';
import { listen } from '#kernel/http/listen.js';
import type { LocalService } from '#kernel/http/local.js';
import { createRestApp, mount, type Authenticate } from '#kernel/http/router.js';
import type { Log } from '#kernel/log.js';
import { MetricsConfig, openMetrics, type Metrics } from '#kernel/metrics.js';
import { countRequests } from '#kernel/http/request-metrics.js';
import { timeDatabase } from '#kernel/persistence/database-metrics.js';
import { ChangeFeed } from '#kernel/persistence/change-feed.js';
import { openDatabase } from '#kernel/persistence/database.js';
import { Scope } from '#kernel/scope.js';
import { formatDn, subjectDn } from '#kernel/security/dn.js';
import { identityConfig, openIdentity } from '#kernel/security/open-identity.js';
import { readText } from '#kernel/security/tls.js';
import { Catalogue } from './catalogue/catalogue.js';
import { imageRoutes } from './contract.js';
import { imageOperations } from './operations.js';
import { changesOperations } from './operations-changes.js';
import { ImageRepository } from './repository.js';
import { BlobStore } from './store/blob-store.js';

const GiB = 1024 ** 3;
/** Those who follow the images ask all the time; after a week they had better read them all. */
const keptChanges = { maxCount: 100_000, maxAgeMs: 7 * 86_400_000 };
/** Of the REST interface below. */
const interfaceVersion = '1.0.0';

export const ImagerepoConfig = z.strictObject({
  /** Behind a gateway on the same machine: a unix socket, in a directory that only we may enter. */
  listen: z.union([
    z.strictObject({ unix: file }),
    z.strictObject({
      host: z.string().default('127.0.0.1'),
      port,
      tls: DirectTls.optional(),
    }),
  ]),
  /** Our address for requests that come without a gateway, up to the site: `https://host:8080/IMAGES`. */
  externalUrl: z.url({ protocol: /^https?$/ }),
  database: z.strictObject({
    url: z.string(),
    /** First line: PostgreSQL's password. */
    passwordFile: file.optional(),
  }),
  /** Holds the contents of images; ours alone. */
  storeDirectory: file,
  /** Largest part that is taken. */
  maxPartBytes: z
    .int()
    .min(1)
    .default(64 * GiB),
  /** Largest disk that a guest may see, unpacked. */
  maxDiskBytes: z
    .int()
    .min(1)
    .default(1024 * GiB),
  ...identityConfig,
  /** Absent: nothing is counted. */
  metrics: MetricsConfig.optional(),
});
export type ImagerepoConfig = z.output<typeof ImagerepoConfig>;

export type ImagerepoDeps = {
  readonly log: Log;
  readonly clock?: Clock;
  /** Shared by services of one process; default: by the users file and the consignors. */
  readonly authenticate?: Authenticate;
};

export type Imagerepo = AsyncDisposable & {
  /** The TCP port, when it listens on one. */
  readonly port?: number | undefined;
  /** For a gateway in this process. */
  readonly local: LocalService;
  close(): Promise<void>;
};

/** Starts the image repository; when it returns, deletions that a crash cut short are done. */
export async function startImagerepo(
  config: ImagerepoConfig,
  { log: parent, clock = systemClock, authenticate }: ImagerepoDeps,
): Promise<Imagerepo> {
  const log = parent.child({ part: 'imagerepo' });
  const scope = new Scope();
  try {
    const metrics = await openMetrics(config.metrics, scope, log);
    const { images, feed } = await openRepository(config, scope, clock, log, metrics);
    const signers = await readSigners(config);
    const closing = new AbortController();
    const followers = signers.map((certificate) => formatDn(subjectDn(certificate)));
    const direct = believesCertificates(config.listen);
    const identity = authenticate
      ? { authenticate }
      : await openIdentity(config, { log, scope, clock, direct, metrics });
    const app = createRestApp({
      mounts: [
        mount(imageRoutes.images, changesOperations, { feed, followers, closing: closing.signal }),
        mount(imageRoutes.images, imageOperations, { images }),
      ],
      ...identity,
      externalUrl: config.externalUrl,
      log,
      onAnswered: metrics && countRequests(metrics),
      api: {
        title: 'Image repository',
        version: interfaceVersion,
        description:
          'Images of virtual machines and containers, described by what they can run. An image is ' +
          'made from its metadata, its parts are uploaded, then it is published.',
      },
    });
    const { address, follow } = await openAddress(config.listen);
    const listening = await listen(app, address, scope);
    follow(listening, { scope, log });
    scope.defer(() => closing.abort());
    // only now: the address tells that no other process serves this store
    await images.recover();
    log.info({ port: listening.port }, 'image repository started');
    const close = () => scope.close();
    const { port, local } = listening;
    return { port, local, close, [Symbol.asyncDispose]: close };
  } catch (error) {
    await scope.close();
    throw error;
  }
}

async function openRepository(
  { database: { url, passwordFile }, storeDirectory, maxPartBytes, maxDiskBytes }: ImagerepoConfig,
  scope: Scope,
  clock: Clock,
  log: Log,
  metrics?: Metrics,
): Promise<{ images: ImageRepository; feed: ChangeFeed }> {
  const password = passwordFile && (await readText(passwordFile)).split('\n', 1)[0];
  const database = scope.use(
    await openDatabase({ url, password, log, onCall: metrics && timeDatabase(metrics) }),
  );
  const catalogue = await Catalogue.open(database, log);
  const store = await BlobStore.open(storeDirectory);
  const limits = { maxPartBytes, maxDiskBytes };
  const { changes } = catalogue;
  const feed = scope.use(new ChangeFeed({ changes, bounds: keptChanges, clock, log }));
  const onChange = (): void => feed.wake();
  return { images: new ImageRepository({ catalogue, store, clock, log, limits, onChange }), feed };
}

async function readSigners({ consignorFiles }: ImagerepoConfig): Promise<X509Certificate[]> {
  const pems = await Promise.all(consignorFiles.map(readText));
  return pems.map((pem) => new X509Certificate(pem));
}
