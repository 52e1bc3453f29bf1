import { z } from 'zod';
import { file } from '#kernel/config.js';
import { mostVolumes } from '#tsi/protocol/machine-setup.js';
import { ChangesConfig } from './changes/config.js';
import { DataConfig } from './data/config.js';
import { IdbConfig } from './idb/config.js';
import { JobConfig } from './job/config.js';
import { StagingConfig } from './staging/config.js';
import { StoragesConfig } from './storage/config.js';
import { HostsConfig } from './vm/hosts/config.js';
import { placementConfig } from './vm/placement/config.js';
import { flavourFaults } from './vm/placement/flavours.js';
import { controlNames, controls, type ControlName } from './vm/resource-controls.js';
import { SparesConfig, WarmConfig } from './vm/tiers/config.js';
import { NetworkConfig, NetworksConfig, TsiConfig } from './vm/network-config.js';
import { endActions, recoveries } from './vm/target-system.js';

const controlLimits = Object.fromEntries(
  controlNames.map((name) => [name, z.int().min(controls[name].min).optional()]),
) as Record<ControlName, z.ZodOptional<z.ZodInt>>; // as: one for each name

export const XnjsConfig = z.strictObject({
  /** Absolute. Files of target systems; containers need it reachable (permission x) for all users. */
  stateDirectory: z.string().startsWith('/', 'must be an absolute path'),
  database: z.strictObject({
    /** `sqlite:/absolute/path` or `postgres://user@host/name` */
    url: z.string(),
    passwordFile: file.optional(),
  }),
  hypervisor: z.strictObject({
    /** libvirt URI for virtual machines, `qemu:///system` */
    machines: z.string().optional(),
    /** `kvm` only where a guest really booted with it; else software emulation */
    acceleration: z.enum(['kvm', 'qemu']).default('qemu'),
    /** libvirt URI for containers, `lxc:///system` */
    containers: z.string().optional(),
    /** A disk made by `vsite image agent-disk`, for images that hold no TSI (ADR 039). */
    agentDisk: file.optional(),
    /** For machines whose TSI is reached over a network (ADR 016). */
    network: NetworkConfig.optional(),
    /** What of a network users' machines can have. */
    networks: NetworksConfig.prefault({}),
    /** Other hosts, and what is said of this one, `local` (ADR 034). */
    hosts: HostsConfig,
  }),
  tsi: TsiConfig.prefault({}),
  images: z.strictObject({
    url: z.url(),
    /** Unix socket of the repository where it has one. */
    socket: z.string().optional(),
    /** Its store directory where it is on this host. */
    storeDirectory: z.string().optional(),
  }),
  targetSystems: z
    .strictObject({
      bootTimeoutSeconds: z.number().positive().default(120),
      heartbeatSeconds: z.number().positive().default(1),
      /** How often hypervisors are asked how their machines are, and agents how their guests are. */
      watchSeconds: z.number().positive().default(2),
      guestSeconds: z.number().positive().default(30),
      /** How often hypervisors are compared with the records, and how long an orphan is only watched. */
      compareSeconds: z.number().positive().default(30),
      orphanGraceSeconds: z.number().positive().default(60),
      /** Target systems that nobody has worked with for so long are ended, or parked; absent: they are kept. */
      idleSeconds: z.number().positive().optional(),
      idleAction: z.enum(endActions).default('destroy'),
      /** One that was parked for so long is ended; absent: it may stay so. */
      maxFrozenSeconds: z.number().positive().optional(),
      /** What is done, where the owner says nothing, when a machine that was ready stops by itself. */
      recovery: z.enum(recoveries).default('none'),
      /** How often batch systems are asked for their queues, and what these allow. */
      queuesSeconds: z.number().positive().default(300),
      /** How often it is read what machines use, and how long that is kept after their end. */
      usageSeconds: z.number().positive().default(30),
      accountingDays: z.number().positive().default(400),
      /** How machines prove which one they are (ADR 039). */
      enrolment: z
        .strictObject({
          /** How long after its start a machine can use its token. */
          tokenSeconds: z.number().positive().default(3_600),
          /** How long a certificate is good for; it is renewed after half of that. */
          certificateHours: z.number().positive().max(8_760).default(24),
        })
        .prefault({}),
      /** Machines that run before anybody asks for them (ADR 035). */
      spares: SparesConfig.prefault({}),
      /** Machines that start from the saved memory of others (ADR 035). */
      warm: WarmConfig.prefault({}),
      limits: z
        .strictObject({
          cpus: z.int().positive().default(8),
          memoryMiB: z.int().positive().default(16_384),
          /** Absent: what the image's disk has. */
          diskMiB: z.int().positive().optional(),
          perUser: z.int().positive().default(16),
          /** The most snapshots of one target system; they count on quotas of disk, too. */
          snapshots: z.int().min(0).max(100).default(4),
          /** The most volumes of one target system, and of a user that outlive them; the largest (ADR 040). */
          volumes: z.int().min(0).max(mostVolumes).default(4),
          volumesPerUser: z.int().min(0).default(8),
          volumeMiB: z.int().positive().default(10_240),
          /** How long one lives that nobody names an end for; absent: until it is deleted. */
          lifetimeSeconds: z.int().positive().optional(),
          /** The most that its end can be ahead; absent: any time. */
          maxLifetimeSeconds: z.int().positive().optional(),
          /** The most of each resource control, and what a target system has that asks for none. */
          ...controlLimits,
        })
        .prefault({}),
      ...placementConfig,
    })
    .superRefine((config, context) => {
      for (const fault of flavourFaults(config, config.limits))
        context.addIssue({ code: 'custom', ...fault });
    })
    .prefault({}),
  jobs: JobConfig.prefault({}),
  staging: StagingConfig.prefault({}),
  storages: StoragesConfig.prefault({}),
  data: DataConfig.prefault({}),
  idb: IdbConfig.prefault({}),
  changes: ChangesConfig.prefault({}),
});
export type XnjsConfig = z.output<typeof XnjsConfig>;
