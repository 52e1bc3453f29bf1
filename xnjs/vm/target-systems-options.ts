import type { Clock } from '#kernel/clock.js';
import type { Log } from '#kernel/log.js';
import type { IdbSource } from '../idb/idb-source.js';
import type { EnrolmentConfig, Enrolments } from './context/enrolments.js';
import type { OwnContext } from './context/own-context.js';
import type { HostLabels } from './hosts/host-placement.js';
import type { Hosts } from './hosts/hosts.js';
import type { MachineNetworks } from './machine-networks.js';
import type { MachineObserver } from './machine-observer.js';
import type { ImageSearch, ImageSource } from './image-source.js';
import type { ImageParameterWish } from './image-parameters.js';
import type { ImageWish } from './image-wish.js';
import type { MachineSize } from './machine-size.js';
import type { SiteLimits } from './placement/flavours.js';
import type { PlannerOptions } from './placement/planner.js';
import type { Requester } from './placement/requester.js';
import type { TargetStore } from './target-store.js';
import type { EndAction, Recovery, TargetSystem } from './target-system.js';
import type { SparesOptions } from './tiers/spare-pool.js';
import type { WarmOptions } from './tiers/templates.js';
import type { TsiNetwork } from './tsi-network.js';
import type { UsageStore } from './usage.js';
import type { VolumeLimits } from './volumes/choose-volumes.js';
import type { VolumeStore } from './volumes/volumes.js';
import type { VolumeWish } from './volumes/volume-wish.js';
import type { Workspace } from './workspace.js';

export type TargetSystemsOptions = {
  readonly store: TargetStore;
  readonly hosts: Hosts;
  readonly images: ImageSource & ImageSearch;
  readonly workspace: Workspace;
  readonly clock: Clock;
  readonly log: Log;
  /** Marks our domains among those of a host. */
  readonly installationId: string;
  /** Ends what nobody has worked with for a while; absent: it is kept. */
  readonly idle?: {
    /** The longest; absent: those that say nothing are kept. */
    readonly afterMs?: number;
    /** Of those that say nothing. Containers, which cannot be parked, are ended. */
    readonly action: EndAction;
    readonly isBusy: (id: string) => Promise<boolean>;
  };
  /** The longest that one may be parked on disk; absent: any time. */
  readonly maxFrozenMs?: number | undefined;
  /** Of target systems whose owners name none. */
  readonly recovery?: Recovery;
  /** What makes this server the one that acts; absent: it is alone. */
  readonly lease?: { readonly epoch: number; readonly require: () => Promise<void> };
  /** How often hypervisors are compared with the records, and how long an orphan is only watched. */
  readonly compareMs?: number;
  readonly orphanGraceMs?: number;
  readonly bootTimeoutMs: number;
  readonly heartbeatMs: number;
  /** An agent that has not answered for so long is silent; absent: three heartbeats, ten seconds at least. */
  readonly silenceMs?: number;
  /** How often hypervisors are asked how machines are, and agents how their guests are. */
  readonly watchMs?: number;
  readonly guestMs?: number;
  /** How often batch systems are asked for their queues. */
  readonly queuesIntervalMs?: number;
  /** The site's IDB. */
  readonly idb?: Pick<IdbSource, 'bind' | 'scriptHeader'>;
  readonly limits: SiteLimits & {
    readonly perUser: number;
    /** Of one target system; absent: 4. */
    readonly snapshots?: number;
  };
  /** Absent: machines have none, and users either. */
  readonly volumes?: {
    readonly store: VolumeStore;
    /** The most of one target system, and of a user that outlive them; the largest. */
    readonly limits: VolumeLimits & { readonly perUser: number };
  };
  /** Flavours, quotas, prices and what is known of starts. */
  readonly placement?: Pick<PlannerOptions, 'flavours' | 'quota' | 'prices' | 'starts'>;
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
  /** Absent: machines are believed by the channel that they answer on. */
  readonly enrolment?: EnrolmentConfig;
  /** What {@link TargetSystems} makes of it. */
  readonly enrolments?: Enrolments;
  /** The disk with our agent, for images without a TSI; absent: they are refused. */
  readonly agentDisk?: string;
  readonly observer?: MachineObserver | undefined;
  /** Absent: images whose TSI is reached over a network are refused. */
  readonly network?: TsiNetwork;
  /** What else of a network machines can have; absent: none. */
  readonly networks?: MachineNetworks;
};

export type NewTargetSystem = {
  /** The job that it is made for. */
  readonly jobId?: string;
  readonly ownerDn: string;
  /** For whom; absent: one of whom nothing is known but the name. */
  readonly requester?: Requester;
  /** An image's id, name or `name:version`; or what it must have. */
  readonly image: string | ImageWish;
  /** A size by name; absent: the site's default. */
  readonly flavour?: string;
  readonly parameters: MachineSize;
  /** Values for what the image's metadata declare. */
  readonly imageParameters?: ImageParameterWish | undefined;
  /** Disks of its own. */
  readonly volumes?: VolumeWish | undefined;
  /** For the set-up of the machine. */
  readonly context?: OwnContext;
  /** What its host must have. */
  readonly hostLabels?: HostLabels | undefined;
  /** The size is what is needed at least: an image that needs more has that. */
  readonly atLeast?: boolean;
  readonly tags: readonly string[];
  /** What is done when its machine, its time or its use ends; what is left out is as the site says. */
  readonly ends?: Partial<Pick<TargetSystem, 'recovery' | 'endAction' | 'idle'>>;
  readonly terminationMs?: number;
};
