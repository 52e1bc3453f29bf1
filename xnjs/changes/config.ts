import { z } from 'zod';

/** How much of what has changed is kept, for those who come back. */
export const ChangesConfig = z.strictObject({
  maxCount: z.int().min(1).max(10_000_000).default(100_000),
  maxAgeSeconds: z
    .number()
    .positive()
    .default(7 * 86_400),
});
export type ChangesConfig = z.output<typeof ChangesConfig>;
