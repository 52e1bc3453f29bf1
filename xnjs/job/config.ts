import { z } from 'zod';

/** Settings of the job engine. */
export const JobConfig = z.strictObject({
  /** How often the batch system of a target with active jobs is asked for all of them. */
  statusIntervalMs: z.int().min(10).default(200),
  /** The most that slow or failing listings stretch the interval to. */
  statusMaxIntervalMs: z.int().min(10).default(1_000),
  /** Calls at once to one target system, and to all of them. */
  callsPerTarget: z.int().min(1).default(8),
  callsTotal: z.int().min(1).default(64),
  /** Waits between attempts while a target system does not answer: doubled from the first to the last. */
  retryFirstMs: z.int().min(1).default(100),
  retryMaxMs: z.int().min(1).default(5_000),
  /** How often a step is tried again that the TSI refused, and how long before the first time. */
  refusedRetries: z.int().min(0).default(3),
  refusedDelayMs: z.int().min(0).default(250),
  lifetimeSeconds: z
    .int()
    .min(1)
    .default(30 * 86_400),
  reaperIntervalMs: z.int().min(10).default(10_000),
  defaultUmask: z
    .string()
    .regex(/^[0-7]{1,4}$/)
    .default('077'),
});
export type JobConfig = z.output<typeof JobConfig>;
