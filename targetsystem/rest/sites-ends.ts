import { z } from 'zod';
import { endActions, recoveries, type TargetSystem, type TargetSystems } from '#xnjs/index.js';
import { member, type Changeable } from './changes.js';

type EndChange = Pick<Parameters<TargetSystems['update']>[1], 'recovery' | 'endAction' | 'idle'>;

/** What a `PUT` may name of what is done when a machine, its time or its use ends. */
export function endMembers(
  { idleLimitSeconds: most }: Pick<TargetSystems, 'idleLimitSeconds'>,
  { idle }: TargetSystem,
): Changeable<EndChange> {
  const allowed = z
    .int()
    .min(1)
    .refine((seconds) => seconds <= most, `must not be above ${most}, the longest of this site`);
  return {
    recovery: member(z.enum(recoveries), (change, recovery) => {
      change.recovery = recovery;
    }),
    endAction: member(z.enum(endActions), (change, action) => {
      change.endAction = action;
    }),
    idleSeconds: member(allowed, (change, seconds) => {
      change.idle = { ...(change.idle ?? idle), seconds };
    }),
    idleAction: member(z.enum(endActions), (change, action) => {
      change.idle = { ...(change.idle ?? idle), action };
    }),
  };
}
