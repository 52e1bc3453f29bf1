import { randomUUID } from 'node:crypto';
import { readFile, writeFile } from 'node:fs/promises';
import { freemem } from 'node:os';
import { join } from 'node:path';
import { z } from 'zod';
import { systemClock } from '#kernel/clock.js';
import type { Log } from '#kernel/log.js';
import type { Metrics } from '#kernel/metrics.js';
import type { ChangeFeed } from '#kernel/persistence/change-feed.js';
import type { Database } from '#kernel/persistence/database.js';
import type { Scope } from '#kernel/scope.js';
import type { Audit } from '#kernel/security/audit.js';
import type { XnjsConfig } from './config.js';
import type { IdbSource } from './idb/idb-source.js';
import type { JobStore } from './job/store.js';
import { countSystems, observeMachines } from './metrics.js';
import type { Lease } from './persistence/sql-lease.js';
import { createRecordStores } from './persistence/sql-record-store.js';
import { createStartStore } from './persistence/sql-start-store.js';
import { createTargetStores } from './persistence/sql-target-store.js';
import { createUsageStore } from './persistence/sql-usage-store.js';
import { createVolumeStore } from './persistence/sql-volume-store.js';
import { openEnrolment } from './vm/context/open-enrolment.js';
import type { Hosts } from './vm/hosts/hosts.js';
import type { HttpImageSource } from './vm/http-image-source.js';
import type { MachineNetworks } from './vm/machine-networks.js';
import { openNetwork } from './vm/network-config.js';
import { placementOf } from './vm/placement/config.js';
import { recordStarts } from './vm/placement/starts.js';
import type { TargetSystemsOptions } from './vm/target-systems-options.js';
import { TargetSystems } from './vm/target-systems.js';
import type { Template } from './vm/tiers/template.js';
import { Workspace } from './vm/workspace.js';

export type SystemsDeps = {
  readonly log: Log;
  readonly audit?: Audit;
  readonly metrics?: Metrics | undefined;
};

export type SystemsParts = {
  readonly scope: Scope;
  readonly database: Database;
  readonly idb: IdbSource;
  readonly hosts: Hosts;
  readonly networks: MachineNetworks;
  readonly installationId: string;
  readonly images: HttpImageSource;
  readonly feed: ChangeFeed;
  readonly lease: Lease;
  readonly jobStore: JobStore;
};

/** The target systems as configured; they are still to be started. */
export async function openSystems(
  config: XnjsConfig,
  { log, audit, metrics }: SystemsDeps,
  parts: SystemsParts,
): Promise<TargetSystems> {
  const { scope, database, idb, hosts, networks, installationId, images, feed, lease, jobStore } =
    parts;
  const { stateDirectory, targetSystems, hypervisor } = config;
  const { idleSeconds, maxFrozenSeconds } = targetSystems;
  const network = await openNetwork(config, scope, log);
  const common = { clock: systemClock, log };
  const starts = createStartStore(database);
  const { targets, spares } = createTargetStores(database, () => feed.wake(), lease);
  const systems = scope.use(
    new TargetSystems({
      store: targets,
      lease,
      hosts,
      observer: metrics && observeMachines(metrics),
      images,
      workspace: new Workspace(stateDirectory),
      installationId,
      ...times(targetSystems),
      idle: {
        ...(idleSeconds !== undefined && { afterMs: idleSeconds * 1_000 }),
        action: targetSystems.idleAction,
        isBusy: async (targetId) => (await jobStore.unfinished({ targetId, num: 1 })).length > 0,
      },
      ...(maxFrozenSeconds !== undefined && { maxFrozenMs: maxFrozenSeconds * 1_000 }),
      recovery: targetSystems.recovery,
      limits: targetSystems.limits,
      volumes: volumesOf(targetSystems, database, lease),
      usage: {
        store: createUsageStore(database),
        intervalMs: targetSystems.usageSeconds * 1_000,
        keepMs: targetSystems.accountingDays * 86_400_000,
      },
      spares: { store: spares, config: targetSystems.spares, availableMiB },
      warm: {
        store: createRecordStores(database)<Template>('template'),
        config: targetSystems.warm,
        availableMiB,
      },
      placement: { ...placementOf(targetSystems), starts },
      networks,
      enrolment: await openEnrolment(config, installationId, audit),
      ...(hypervisor.agentDisk !== undefined && { agentDisk: hypervisor.agentDisk }),
      ...(network && { network }),
      idb,
      ...common,
    }),
  );
  scope.defer(recordStarts(systems, starts, log));
  if (metrics) scope.defer(countSystems(metrics, systems, hosts));
  return systems;
}

function volumesOf(
  { limits: { volumes, volumeMiB, volumesPerUser } }: XnjsConfig['targetSystems'],
  database: Database,
  lease: Lease,
): NonNullable<TargetSystemsOptions['volumes']> {
  const limits = { volumes, volumeMiB, perUser: volumesPerUser };
  return { store: createVolumeStore(database, lease), limits };
}

type Times =
  | 'bootTimeoutMs'
  | 'heartbeatMs'
  | 'watchMs'
  | 'compareMs'
  | 'orphanGraceMs'
  | 'guestMs'
  | 'queuesIntervalMs';

function times(config: XnjsConfig['targetSystems']): Pick<TargetSystemsOptions, Times> {
  return {
    bootTimeoutMs: config.bootTimeoutSeconds * 1_000,
    heartbeatMs: config.heartbeatSeconds * 1_000,
    watchMs: config.watchSeconds * 1_000,
    compareMs: config.compareSeconds * 1_000,
    orphanGraceMs: config.orphanGraceSeconds * 1_000,
    guestMs: config.guestSeconds * 1_000,
    queuesIntervalMs: config.queuesSeconds * 1_000,
  };
}

/** What this host could give to machines: their hypervisors are here. */
function availableMiB(): number {
  return Math.floor(freemem() / 1024 ** 2);
}

/** Random, made at the first start; marks our domains on a host that others use too. */
export async function readInstallationId(directory: string): Promise<string> {
  const path = join(directory, 'installation-id');
  try {
    return z.uuid().parse((await readFile(path, 'utf8')).trim());
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    const id = randomUUID();
    await writeFile(path, `${id}\n`, { flag: 'wx', flush: true });
    return id;
  }
}
