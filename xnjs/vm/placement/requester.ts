import { z } from 'zod';

/** For whom a target system is made: whose limits hold, and on whose quota it counts. */
export type Requester = {
  readonly role: string;
  /** Virtual organisations as whose member he comes: the one that he chose, else all of his. */
  readonly vos: readonly string[];
  /** His primary group. */
  readonly group?: string | undefined;
};

/** Of whom nothing more is known. */
export const plainUser: Requester = { role: 'user', vos: [] };

const names = z.array(z.string().min(1).max(256)).min(1).max(1_000);
/** Whoever has one of these; without any of them: everybody. */
export const whom = {
  roles: names.optional(),
  vos: names.optional(),
  groups: names.optional(),
};
type Whom = z.output<z.ZodObject<typeof whom>>;

export function isMeant({ roles, vos, groups }: Whom, requester: Requester): boolean {
  if (!roles && !vos && !groups) return true;
  return (
    roles?.includes(requester.role) === true ||
    requester.vos.some((vo) => vos?.includes(vo)) ||
    (requester.group !== undefined && groups?.includes(requester.group) === true)
  );
}
