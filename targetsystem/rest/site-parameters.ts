import { z } from 'zod';
import { describeIssues } from '#kernel/config.js';
import { asGridError } from '#kernel/errors.js';
import { readParameterChange, type TargetSystem, type TargetSystems } from '#xnjs/index.js';
import { refusedMember } from './changes.js';

const values = z.record(z.string().max(64), z.unknown());

/**
 * `PUT` of `parameters`: changes the machine while it runs, all of them or none.
 * @returns the member's answer, as other properties have it
 */
export async function changeSiteParameters(
  systems: TargetSystems,
  siteId: string,
  given: unknown,
): Promise<string> {
  const read = values.safeParse(given);
  if (!read.success) return refusedMember(describeIssues(read.error));
  try {
    const change = readParameterChange('parameters', read.data);
    const isDone = await systems.changeParameters(siteId, change);
    return isDone ? 'OK' : acceptedText(systems.get(siteId));
  } catch (error) {
    const known = asGridError(error);
    if (known?.code !== 'BAD_REQUEST' && known?.code !== 'HYPERVISOR_FAILED') throw error;
    return refusedMember(known.message);
  }
}

function acceptedText({ desired }: TargetSystem): string {
  return desired === 'suspended'
    ? 'Accepted: the machine is parked on disk, it is done when it is brought back'
    : 'Accepted: the hypervisor does not answer at present, it is done later';
}
