import { z } from 'zod';
import { RequestError } from '#kernel/http/operation.js';
import { endActions, recoveries, type TargetSystem, type TargetSystems } from '#xnjs/index.js';
import { member, type Changeable } from './changes.js';

type EndChange = Pick<Parameters<TargetSystems['update']>[1], 'recovery' | 'endAction' | 'idle'>;
type IdleLimit = Pick<TargetSystems, 'idleLimitSeconds'>;

const seconds = z.int().min(1);
const tooLong = ({ idleLimitSeconds: most }: IdleLimit): string =>
  `must not be above ${most}, the longest of this site`;

/** The same when a target system is asked for. */
export const newEnds = {
  recovery: z.enum(recoveries).optional(),
  endAction: z.enum(endActions).optional(),
  idleSeconds: seconds.optional(),
  idleAction: z.enum(endActions).optional(),
};

/** What of it was asked for. @throws `BAD_REQUEST` the site allows less */
export function readEnds(
  limit: IdleLimit,
  { recovery, endAction, idleSeconds, idleAction }: z.output<z.ZodObject<typeof newEnds>>,
): EndChange {
  if (idleSeconds !== undefined && idleSeconds > limit.idleLimitSeconds)
    throw new RequestError('BAD_REQUEST', `idleSeconds: ${tooLong(limit)}`);
  const idle = {
    ...(idleSeconds !== undefined && { seconds: idleSeconds }),
    ...(idleAction && { action: idleAction }),
  };
  return {
    ...(recovery && { recovery }),
    ...(endAction && { endAction }),
    ...(Object.keys(idle).length > 0 && { idle }),
  };
}

/** What a `PUT` may name of what is done when a machine, its time or its use ends. */
export function endMembers(limit: IdleLimit, { idle }: TargetSystem): Changeable<EndChange> {
  const allowed = seconds.refine((asked) => asked <= limit.idleLimitSeconds, tooLong(limit));
  return {
    recovery: member(z.enum(recoveries), (change, recovery) => {
      change.recovery = recovery;
    }),
    endAction: member(z.enum(endActions), (change, action) => {
      change.endAction = action;
    }),
    idleSeconds: member(allowed, (change, asked) => {
      change.idle = { ...(change.idle ?? idle), seconds: asked };
    }),
    idleAction: member(z.enum(endActions), (change, action) => {
      change.idle = { ...(change.idle ?? idle), action };
    }),
  };
}
