import { without } from '../job/without.js';
import type { Settled } from './job-settlements.js';
import type { TargetSystem } from './target-system.js';

/** Without what has been settled; what has come up since stays. */
export function withoutSettled(
  record: TargetSystem,
  { lostJobs, generation, putOff, reverted }: Settled,
): TargetSystem {
  if (lostJobs !== undefined)
    return record.generation === generation ? without(record, 'lostJobs') : record;
  if (putOff) {
    const left = (record.putOff ?? []).slice(putOff.length);
    return left.length > 0 ? { ...record, putOff: left } : without(record, 'putOff');
  }
  if (!reverted || record.reverted?.step !== reverted.step) return record;
  return reverted.step === 'tell'
    ? { ...record, reverted: { ...reverted, step: 'tidy' } }
    : without(record, 'reverted');
}
