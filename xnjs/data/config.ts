import { z } from 'zod';

const day = 86_400;

/** Transfers between clients, servers and storages, tasks and shares. */
export const DataConfig = z.strictObject({
  /** How long the address of an import or export is good, and how far it may be extended. */
  clientTransferSeconds: z.int().positive().default(day),
  /** How long transfers between servers, and tasks, are kept. */
  recordSeconds: z
    .int()
    .positive()
    .default(30 * day),
  /** The most of each kind that one user may have. */
  perUser: z.int().positive().default(1_000),
  /** Transfers of one user that run at a time; those of all users share `staging.transfers`. */
  runningPerUser: z.int().positive().default(4),
  /** Tasks at once in the server. */
  tasks: z.int().positive().default(2),
  sharesPerUser: z.int().positive().default(200),
  /** The most; absent: a share may live until it is deleted. */
  maxShareSeconds: z.int().positive().optional(),
  reaperIntervalMs: z.int().min(10).default(5_000),
});
export type DataConfig = z.output<typeof DataConfig>;
