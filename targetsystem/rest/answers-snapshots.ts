import { z } from 'zod';
import { date, links, text, urls } from './answers.js';

/* Machines as they were at earlier moments: our extension (ADR 037). */

export const Snapshot = z
  .object({
    name: text,
    state: z.enum(['TAKING', 'READY', 'FAILED']),
    stateMessage: text
      .optional()
      .describe('Why it failed, or why it could not be restored the last time'),
    submissionTime: date,
    takenTime: date
      .optional()
      .describe('When the machine stood still for it: what its jobs did later is not in it'),
    diskOnly: z
      .boolean()
      .optional()
      .describe('Its machine was off: it has no memory, and going back to it boots'),
    sizeMiB: z.number().describe('On disk; the most that it may be while it is being taken'),
    _links: links,
  })
  .meta({ id: 'Snapshot' });

export const SnapshotList = z.object({ snapshots: urls });
