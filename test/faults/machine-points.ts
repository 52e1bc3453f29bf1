/** Where a server may die while it makes, parks, brings back or removes a machine. */
export const points = [
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
] as const;
export type Point = (typeof points)[number];
