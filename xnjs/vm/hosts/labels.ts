import { z } from 'zod';
import { describeIssues } from '#kernel/config.js';
import { VmError } from '../state.js';
import type { HostLabels } from './host-placement.js';

export const HostLabel = z
  .string()
  .regex(/^[A-Za-z0-9][A-Za-z0-9._=-]{0,62}$/, 'must be a word of letters, digits and . _ = -');

/** A text has them with commas between: parameters of many clients are texts. */
const Labels = z
  .union(
    [
      z.string().transform((text) => text.split(',').map((each) => each.trim())),
      z.array(z.string()),
    ],
    'must be a label, or a list of them',
  )
  .pipe(z.array(HostLabel).max(16));

/**
 * What a request says of the host that it wants.
 * @throws {@link VmError} `BAD_REQUEST` naming the field
 */
export function parseHostLabels(field: string, value: unknown): HostLabels | undefined {
  if (value === undefined || value === null || value === '') return undefined;
  const result = Labels.safeParse(value);
  if (result.success) return { labels: result.data, field };
  throw new VmError('BAD_REQUEST', `${field}: ${describeIssues(result.error)}`);
}
