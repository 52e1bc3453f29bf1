import type { Context } from '#kernel/http/operation.js';
import type { TargetSystem } from '#xnjs/index.js';
import type { RestDeps } from './deps.js';
import { isListed, type ListFilter } from './lists.js';

/** The newest first. */
export function visibleSystems(
  { systems }: RestDeps,
  { caller }: Context,
  filter?: ListFilter,
): TargetSystem[] {
  return systems.list().filter((system) => isListed(system, caller, filter));
}
