import type { Clock } from '#kernel/clock.js';
import type { Log } from '#kernel/log.js';
import type { IdbSource } from '../idb/idb-source.js';
import type { Hypervisor } from './hypervisor.js';
import type { ImageSource } from './image-source.js';
import type { Controls } from './resource-controls.js';
import type { TargetStore } from './target-store.js';
import type { TargetSystemParameters } from './target-system.js';
import type { SparesOptions } from './tiers/spare-pool.js';
import type { WarmOptions } from './tiers/templates.js';
import type { TsiNetwork } from './tsi-network.js';
import type { UsageStore } from './usage.js';
import type { Workspace } from './workspace.js';

export type TargetSystemsOptions = {
  readonly store: TargetStore;
  readonly hypervisor: Hypervisor;
  readonly images: ImageSource;
  readonly workspace: Workspace;
  readonly clock: Clock;
  readonly log: Log;
  /** Marks our domains among those of a host. */
  readonly installationId: string;
  readonly bootTimeoutMs: number;
  readonly heartbeatMs: number;
  /** How often batch systems are asked for their queues. */
  readonly queuesIntervalMs?: number;
  /** The site's IDB. */
  readonly idb?: Pick<IdbSource, 'bind' | 'scriptHeader'>;
  readonly limits: Controls & {
    readonly cpus: number;
    readonly memoryMiB: number;
    readonly perUser: number;
    readonly lifetimeSeconds?: number | undefined;
    readonly maxLifetimeSeconds?: number | undefined;
  };
  /** What machines use; absent: nobody measures it. */
  readonly usage?: {
    readonly store: UsageStore;
    readonly intervalMs: number;
    /** How long those that have ended are kept. */
    readonly keepMs: number;
  };
  /** Machines that run before anybody asks for them; absent: there are none. */
  readonly spares?: SparesOptions;
  /** Saved memory of booted machines; absent: there is none. */
  readonly warm?: WarmOptions;
  /** Absent: images whose TSI is reached over a network are refused. */
  readonly network?: TsiNetwork;
};

export type NewTargetSystem = {
  /** The job that it is made for. */
  readonly jobId?: string;
  readonly ownerDn: string;
  /** An image's id, name or `name:version`. */
  readonly image: string;
  readonly parameters: TargetSystemParameters;
  readonly tags: readonly string[];
  readonly terminationMs?: number;
};
