import type { ImageRecord, NetworkKind } from '#imagerepo/contract.js';
import type { AgentFacts } from '#tsi/protocol/facts.js';
import type { SetupReport } from '#tsi/protocol/machine-setup.js';
import type { IdbSubject } from '../idb/idb.js';
import type { EnrolmentRecord } from './context/enrolments.js';
import type { OwnContext } from './context/own-context.js';
import type { ImageParameters } from './image-parameters.js';
import type { Parked } from '../job/put-off.js';
import type { Asked, MachineSize } from './machine-size.js';
import type { NetworkCard } from './network-card.js';
import type { CountsFor } from './placement/quota.js';
import type { ControlName, Controls, ControlWishes } from './resource-controls.js';
import type { Budget, TsiIdentity } from '../tsi/tsi.js';
import type { RevertedJobs, Snapshot, Undertaking } from './snapshots/snapshot.js';
import type { VmState } from './state.js';
import type { Views } from './views.js';
import type { MachineVolume } from './volumes/volume.js';

/** Why a state is believed: who said what, and when (ms since the epoch). */
export type Evidence = {
  readonly source: 'agent' | 'guest' | 'hypervisor' | 'server' | 'user';
  readonly fact: string;
  readonly atMs: number;
};

/** ms after the request; absent until it happened, or where there is no such thing (a container's kernel). */
export type BootTimeline = {
  /** A machine that ran before became this one's. */
  readonly claimedMs?: number;
  /** Its image has been copied to its host. */
  readonly fetchedMs?: number;
  /** It runs, from saved memory. */
  readonly restoredMs?: number;
  /** It has become another one: name, keys, random seed, clock. */
  readonly identityMs?: number;
  readonly definedMs?: number;
  readonly startedMs?: number;
  readonly kernelMs?: number;
  readonly userSpaceMs?: number;
  readonly agentMs?: number;
  readonly readyMs?: number;
};

/** What is done when a machine that was ready is proven to have stopped. */
export const recoveries = ['none', 'restart', 'restore'] as const;
export type Recovery = (typeof recoveries)[number];

/** What becomes of one whose life time is over, or that nobody uses. */
export const endActions = ['destroy', 'freeze'] as const;
export type EndAction = (typeof endActions)[number];
/** When nobody uses it; what is left out is as the site says. */
export type Idle = { readonly seconds?: number; readonly action?: EndAction };

/** What a user may ask for, beside the image. */
export type TargetSystemParameters = Omit<MachineSize, 'runtimeSeconds'>;

/** What may change while a machine runs. */
export type ChangeableName = ControlName | 'memoryMiB';
/** `null` takes a control back. */
export type ParameterChange = ControlWishes & { readonly memoryMiB?: Asked };

export const drivers = ['qemu', 'kvm', 'lxc'] as const;
export type Driver = (typeof drivers)[number];

/** How a target system came by its machine, the fastest first (ADR 035). */
export type StartTier = 'spare' | 'warm' | 'cold' | 'fetch';
export type Start = { readonly tier: StartTier; readonly reason: string };

/** Why a machine was started: the creation of its target system, or what has come since. */
export const startReasons = ['creation', 'restart', 'thaw', 'revert', 'restore'] as const;
/** One of its starts. */
export type MachineStart = Partial<Pick<Start, 'reason'>> & {
  readonly what: (typeof startReasons)[number];
  /** `saved`: from its own saved memory. */
  readonly tier?: StartTier | 'saved';
  /** ms since the epoch: what its marks count from. */
  readonly fromMs: number;
  readonly boot: BootTimeline;
};

/** What a machine is made of, whoever it is for. */
export type MachineSpec = Pick<
  TargetSystem,
  | 'id'
  | 'image'
  | 'parameters'
  | 'driver'
  | 'host'
  | 'card'
  | 'cores'
  | 'volumes'
  | 'generation'
  | 'setup'
>;

/** One target system and its virtual machine: the durable record. */
export type TargetSystem = {
  /** Also the domain's UUID. */
  readonly id: string;
  readonly ownerDn: string;
  readonly image: Pick<ImageRecord, 'id' | 'metadata' | 'parts'>;
  readonly parameters: Controls & {
    readonly cpus: number;
    readonly memoryMiB: number;
    /** What the machine was made with; absent: `memoryMiB`. */
    readonly memoryMaxMiB?: number;
    /** Of its own disk; absent: it has none, or as much as is written to it. */
    readonly diskMiB?: number;
    /** What of a network it has, beside that of its image's TSI; absent: none. */
    readonly network?: Exclude<NetworkKind, 'none'>;
    /** Its cores are whole ones of its host, which no other machine runs on. */
    readonly pinned?: true;
  };
  /** Those of its host that it has for itself, one for each of its own; absent: it shares. */
  readonly cores?: readonly number[];
  /** By which it has that; absent: it has none. */
  readonly card?: NetworkCard;
  /** The size by name that it was asked for. */
  readonly flavour?: string;
  /** Where that allows less than the site does. */
  readonly limits?: Controls & { readonly maxLifetimeSeconds?: number | undefined };
  /** On whose quota it counts, beside its owner's and the site's. */
  readonly countsFor?: CountsFor;
  /** Values for the parameters that its image declares. */
  readonly imageParameters?: ImageParameters;
  /** Disks of its own beside that of its image; absent: none. */
  readonly volumes?: readonly MachineVolume[];
  /** Digests of disks with our agent that its domain may have, on a host that they are copied to; absent: none. */
  readonly agentDisks?: readonly string[];
  /** What came of giving its machine what it is to have; absent: it was not told yet, or has nothing to do. */
  readonly setup?: SetupReport;
  /** Why it is made from this image. */
  readonly choice?: string;
  /** Changes of parameters that the hypervisor has not confirmed yet. */
  readonly unapplied?: readonly ChangeableName[];
  readonly driver: Driver;
  /** That its machine is on, by name (ADR 034). */
  readonly host: string;
  /** Why there. */
  readonly placement?: string;
  /** What its host must have. */
  readonly hostLabels?: readonly string[];
  readonly state: VmState;
  readonly evidence: Evidence;
  /** What each source says of the machine while there is one: what the state is made of. */
  readonly views?: Views;
  readonly boot: BootTimeline;
  /** Absent: a machine of an earlier version of this server. */
  readonly start?: Start;
  /** Its last starts besides the one that `boot` tells of; absent: it had no other. */
  readonly starts?: readonly MachineStart[];
  /** Whose saved memory it starts from (`warm`). */
  readonly template?: string;
  /** What a faster tier has left is to be removed before a machine is made. */
  readonly isSpoilt?: boolean;
  /** What the guest says of itself. For display only; nothing is decided by it. */
  readonly facts?: AgentFacts;
  /** What its batch system told of its queues; absent: it has not been asked yet. */
  readonly queues?: NonNullable<IdbSubject['queues']>;
  /** What its batch system told that its owner may still use, where that is limited. */
  readonly budgets?: readonly Budget[];
  /** Whether its TSI runs job arrays, as it says itself; absent: it does, or has not been asked yet. */
  readonly arrays?: boolean;
  /** By what its machine proves that it is this one; absent: it was not asked to. */
  readonly enrolment?: EnrolmentRecord;
  /** What its owner gave for the set-up of its machine. */
  readonly context?: OwnContext;
  /** Counts the domains that it has had; absent: one. */
  readonly generation?: number;
  /** Absent: none. */
  readonly recovery?: Recovery;
  /** When its life time is over; absent: `destroy`. */
  readonly endAction?: EndAction;
  readonly idle?: Idle;
  /** When it was started again, ms since the epoch: the last times. */
  readonly recoveredMs?: readonly number[];
  /** Why its jobs were lost with its last machine; absent: they have been told, and run again where they may. */
  readonly lostJobs?: string;
  /** What its machine was at earlier moments, the oldest first. */
  readonly snapshots?: readonly Snapshot[];
  /** What is being done with its machine in several steps. */
  readonly undertaking?: Undertaking;
  /** Its machine was put back to an earlier moment, and its jobs are to be told, or what runs is to be tidied up. */
  readonly reverted?: RevertedJobs;
  /** The machine stood still, and its clock with it: it is to be told the time before jobs go on. */
  readonly isBehind?: true;
  /** It is to be parked on disk, or is; absent: it is to run. */
  readonly desired?: 'suspended';
  /** It ended as its host was declared lost, and its files with it or not: it counts as disk only. */
  readonly lostWithHost?: 'machine' | 'files';
  /** It was parked since its host is maintained, and is not its owner's to bring back. */
  readonly isMaintained?: true;
  /** ms since the epoch: when its end was last named. */
  readonly lifetimeFromMs?: number;
  /** Times that it was parked, by which the life times of its jobs are still to be put off. */
  readonly putOff?: readonly Parked[];
  /**
   * Its memory is in a file of ours, and no host has its domain; what a host must be equal to that takes it.
   * Absent: it runs, or its host has its memory.
   */
  readonly parkedOn?: string;
  /** ms since the epoch: since when its time does not count. */
  readonly frozenSinceMs?: number;
  /** What its boot's marks count from; absent: when it was asked for. */
  readonly bootFromMs?: number;
  readonly tags: readonly string[];
  /** The job that it was made for, and ends with (ADR 024). */
  readonly jobId?: string;
  /** What others may do, `write:GROUP:physics`; absent: nothing. */
  readonly acl?: readonly string[];
  /** ms since the epoch */
  readonly createdMs: number;
  /** ms since the epoch; absent: lives until deleted */
  readonly terminationMs?: number;
};

/** Whom jobs run as there. */
export function identityOf({ image }: Pick<TargetSystem, 'image'>): TsiIdentity {
  return { login: image.metadata.tsi.login, groups: 'DEFAULT_GID' };
}

/** What the record says for the IDB of its target system. */
export function idbSubject({
  id,
  image,
  parameters,
  queues,
  arrays,
}: TargetSystem): IdbSubject & { readonly id: string } {
  const { applications, partitions, resources, info } = image.metadata;
  return {
    id,
    applications,
    fragment: { partitions, resources, info },
    limits: { cpus: parameters.cpus, memoryBytes: parameters.memoryMiB * 1024 * 1024 },
    ...(queues && { queues }),
    ...(arrays !== undefined && { arrays }),
  };
}

/** What the marks of its start count from; ms since the epoch. */
export function bootBaseMs({ bootFromMs, createdMs }: TargetSystem): number {
  return bootFromMs ?? createdMs;
}
