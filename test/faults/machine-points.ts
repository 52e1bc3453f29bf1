/**
 * Where a server may die while it makes, parks, brings back or removes a machine, which has volumes; keeps it, or puts it
 * back. Of those that begin with `volume` there is no target system yet, or none at all.
 */
export const points = {
  lives: [
    'volume: stored',
    'volume: removing',
    'create: stored',
    'create: started',
    'freeze: stored',
    'freeze: saving',
    'freeze: saved',
    'freeze: done',
    'thaw: stored',
    'thaw: restored',
    'destroy: stored',
    'destroy: domain removed',
    'destroy: files removed',
  ],
  snapshots: [
    'snapshot: stored',
    'snapshot: moment stored',
    'snapshot: saving',
    'snapshot: saved',
    'snapshot: disk kept',
    'snapshot: started',
    'snapshot-parked: saved',
    'snapshot-parked: started',
    'revert: stored',
    'revert: ended',
    'revert: fenced',
    'revert: disk put',
    'revert: started',
    'forget: stored',
  ],
  /** The same where the host has storage of its own; an order is given, and nobody hears its answer. */
  pool: [
    'snapshot: stored',
    'snapshot: moment stored',
    'snapshot: saving',
    'snapshot: saved',
    'snapshot: disk copying',
    'snapshot: disk kept',
    'snapshot: started',
    'snapshot-parked: saved',
    'snapshot-parked: started',
    'revert: stored',
    'revert: disk laying',
    'revert: ended',
    'revert: fenced',
    'revert: disk copying',
    'revert: disk put',
    'revert: started',
    'forget: stored',
    'forget: file removed',
  ],
} as const;
export type Point = (typeof points)[keyof typeof points][number];
