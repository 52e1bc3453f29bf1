import assert from 'node:assert/strict';
import { createHash, randomUUID } from 'node:crypto';
import { cpSync, mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { z } from 'zod';
import type { BuiltImage } from '#cli/image/build.js';
import { defaultCacheDirectory } from '#cli/quickstart/layout.js';
import { systemClock } from '#kernel/clock.js';
import { LibvirtClient } from '#kernel/libvirt/client.js';
import { silentLog } from '#kernel/log.js';
import { openDatabase } from '#kernel/persistence/database.js';
import { migrate } from '#kernel/persistence/migrate.js';
import { Scope } from '#kernel/scope.js';
import { JobConfig } from '#xnjs/job/config.js';
import { jobMigrations } from '#xnjs/persistence/job-models.js';
import { createJobStore } from '#xnjs/persistence/job-store.js';
import { createSettingsStore, settingsMigrations } from '#xnjs/persistence/settings-store.js';
import { createTargetStore, targetMigrations } from '#xnjs/persistence/sql-target-store.js';
import { transferMigrations } from '#xnjs/persistence/transfer-store.js';
import { localHost } from '#xnjs/vm/hosts/host.js';
import { JobSettlements } from '#xnjs/vm/job-settlements.js';
import { HostsConfig } from '#xnjs/vm/hosts/config.js';
import { openHosts } from '#xnjs/vm/hosts/open-hosts.js';
import type { ImageSearch, ImageSource } from '#xnjs/vm/image-source.js';
import { NetworkConfig, NetworksConfig, openNetwork, TsiConfig } from '#xnjs/vm/network-config.js';
import { openNetworks } from '#xnjs/vm/open-networks.js';
import type { TargetSystemsOptions } from '#xnjs/vm/target-systems-options.js';
import { TargetSystems } from '#xnjs/vm/target-systems.js';
import { Workspace } from '#xnjs/vm/workspace.js';
import { newEngine } from '../job/rig.js';
import { stagingOf } from '../staging/wiring.js';

export const ownerDn = 'CN=Tester \\"T\\" $HOME `id`,O=Grid';
export const bootMs = 240_000;
export const installationId = '11111111-2222-4333-8444-555555555555';

/** Libvirts that are cut off are noticed in a quarter of the time that users' are given; so are those that are back. */
const pace = {
  keepAlive: { intervalMs: 1_000, count: 4 },
  connectTimeoutMs: 2_000,
  reconnect: { minDelayMs: 100, maxDelayMs: 500 },
};

export type NetworkServer = Awaited<ReturnType<typeof startServer>>;

const known = new Map<BuiltImage, Record<string, { sha256: string; sizeBytes: number }>>();

/** Digests and lengths of its parts. */
function contentsOf(image: BuiltImage): Record<string, { sha256: string; sizeBytes: number }> {
  const before = known.get(image);
  if (before) return before;
  const contents = Object.entries(image.parts).map(([name, path]) => {
    const data = readFileSync(path);
    const sha256 = createHash('sha256').update(data).digest('hex');
    return [name, { sha256, sizeBytes: data.length }] as const;
  });
  const found = Object.fromEntries(contents);
  known.set(image, found);
  return found;
}

/** By their names. */
function imagesOf(images: readonly BuiltImage[]): ImageSource & ImageSearch {
  const partsOf = new Map<string, BuiltImage['parts']>();
  return {
    find: (name) => {
      const image = images.find(({ metadata }) => metadata.name === name);
      assert.ok(image, `there is no image ${name}`);
      const id = randomUUID();
      partsOf.set(id, image.parts);
      const { metadata } = image;
      const parts = contentsOf(image);
      const record = { id, owner: ownerDn, created: '', metadata, parts };
      return Promise.resolve({ ...record, state: 'PUBLISHED' });
    },
    isHere: () => Promise.resolve(true),
    search: () => Promise.resolve([]),
    fetch: ({ id }, part) => Promise.resolve(partsOf.get(id)?.[part] ?? ''),
  };
}

export type NetworkServerOptions = {
  readonly images: readonly BuiltImage[];
  /** What the server proves itself by to TSIs. */
  readonly tls?: object;
  /** What of a network machines can have; absent: none. */
  readonly networks?: object;
  /** Of the libvirt that runs the machines. */
  readonly uri: string;
  /** Without a network of machines then. */
  readonly others?: z.input<typeof HostsConfig>;
  readonly systems?: Partial<TargetSystemsOptions>;
};

/** Engine and target systems on one state directory: what a server is, to be started again. */
export async function startServer(
  directory: string,
  { images, tls, networks, uri, others, systems: more }: NetworkServerOptions,
) {
  const scope = new Scope();
  const url = `sqlite:${join(directory, 'server.sqlite')}`;
  const database = scope.use(await openDatabase({ url, log: silentLog }));
  await migrate(
    database,
    'xnjs',
    [...targetMigrations, ...jobMigrations, ...transferMigrations, ...settingsMigrations],
    silentLog,
  );
  const client = scope.use(await LibvirtClient.connect({ uri, log: silentLog }));
  const common = { clock: systemClock, log: silentLog };
  const config = {
    hypervisor: {
      network: NetworkConfig.parse({}),
      networks: NetworksConfig.parse(networks ?? {}),
      machines: uri,
      hosts: HostsConfig.parse(others ?? []),
    },
    tsi: TsiConfig.parse({ tls }),
  };
  const network = others ? undefined : await openNetwork(config, scope, silentLog);
  const { hosts, clients } = await openHosts(
    { machines: uri, acceleration: 'qemu', hosts: config.hypervisor.hosts },
    { installationId, scope, settings: createSettingsStore(database), pace, ...common },
  );
  const systems = scope.use(
    new TargetSystems({
      store: createTargetStore(database),
      hosts,
      images: imagesOf(images),
      workspace: new Workspace(join(directory, 'state')),
      installationId,
      bootTimeoutMs: bootMs,
      heartbeatMs: 500,
      limits: { cpus: 1, memoryMiB: 512, perUser: 8 },
      networks: openNetworks(config, { clients, installationId, log: silentLog }),
      ...(network && { network }),
      ...more,
      ...common,
    }),
  );
  const engine = scope.use(
    newEngine({
      store: createJobStore(database),
      targets: systems,
      staging: stagingOf(scope, directory, { targets: systems, database }),
      config: JobConfig.parse({}),
      ...common,
    }),
  );
  await systems.start();
  await engine.attach();
  scope.use(new JobSettlements({ systems, jobs: engine, ...common })).start();
  return { scope, systems, engine, client, hypervisor: hosts.of({ host: localHost }) };
}

/** Kernels and packages that were unpacked before need not be fetched again. */
export function useCache(cacheDir: string): void {
  for (const name of ['kernels', 'packages']) {
    const known = join(defaultCacheDirectory(), 'images', name);
    mkdirSync(known, { recursive: true });
    cpSync(known, join(cacheDir, name), { recursive: true, verbatimSymlinks: true });
  }
}
