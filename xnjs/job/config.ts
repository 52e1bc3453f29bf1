import { z } from 'zod';
import { file } from '#kernel/config.js';
import { TrustedSites } from '../staging/trusted-sites.js';

/** Settings of the job engine. */
export const JobConfig = z.strictObject({
  /** How often the batch system of a target with active jobs is asked for all of them. */
  statusIntervalMs: z.int().min(10).default(200),
  /** The most that slow or failing listings stretch the interval to. */
  statusMaxIntervalMs: z.int().min(10).default(1_000),
  /** How often running jobs are looked at for how far they are; one call for all of a target system. */
  progressIntervalMs: z.int().min(10).default(10_000),
  /** Calls at once to one target system, and to all of them. */
  callsPerTarget: z.int().min(1).default(8),
  callsTotal: z.int().min(1).default(64),
  /** Waits between attempts while a target system does not answer: doubled from the first to the last. */
  retryFirstMs: z.int().min(1).default(100),
  retryMaxMs: z.int().min(1).default(5_000),
  /** How often a step is tried again that the TSI refused, and how long before the first time. */
  refusedRetries: z.int().min(0).default(3),
  refusedDelayMs: z.int().min(0).default(250),
  /** Stage-ins and stage-outs at once to one target system, and to all of them. */
  stagingsPerTarget: z.int().min(1).default(8),
  stagingsTotal: z.int().min(1).default(64),
  /** How long files of a job that has ended may take to appear, where they lie on a shared file system. */
  fileSystemGraceMs: z.int().min(0).default(0),
  /** The most children of a parameter sweep. */
  sweepLimit: z.int().min(1).max(10_000).default(200),
  /** Jobs that are not over, of all users and of each; more are refused. Children of sweeps count. */
  maxUnfinished: z.int().min(1).default(100_000),
  maxUnfinishedPerUser: z.int().min(1).default(20_000),
  notifications: z
    .strictObject({
      /** Also to this host and to addresses that only hold on one link: for tests. */
      allowLocalTargets: z.boolean().default(false),
      /**
       * Receivers that are told for whom we speak, by a token that is good there only: `https://host:port/PATH`
       * and the DN of its server; what lies below that address is meant, too.
       */
      trustedReceivers: TrustedSites,
      /** Certificates (PEM) of authorities that are trusted besides the well-known ones. */
      trustFiles: z.array(file).default([]),
      /** Sent at once, to all receivers. */
      atOnce: z.int().min(1).default(16),
      timeoutMs: z.int().min(1).default(10_000),
      /** A receiver that fails is tried so often, at intervals doubled from the first to the last. */
      attempts: z.int().min(1).default(8),
      retryFirstMs: z.int().min(1).default(1_000),
      retryMaxMs: z.int().min(1).default(60_000),
    })
    .prefault({}),
  lifetimeSeconds: z
    .int()
    .min(1)
    .default(30 * 86_400),
  /** The most that the end of a job's life can be ahead; absent: any time. */
  maxLifetimeSeconds: z.int().min(1).optional(),
  reaperIntervalMs: z.int().min(10).default(10_000),
  defaultUmask: z
    .string()
    .regex(/^[0-7]{1,4}$/)
    .default('077'),
});
export type JobConfig = z.output<typeof JobConfig>;
