import { isUsable } from '../vm/state.js';
import type { Evidence, Start, TargetSystem } from '../vm/target-system.js';

/** What is told of a target system. */
export type SiteChange = {
  readonly change: 'created' | 'state' | 'deleted';
  readonly state: TargetSystem['state'];
  /** Whether work can be done there; absent: by the state. */
  readonly usable?: boolean;
  /** Why it is believed. */
  readonly evidence: Evidence;
  readonly image: string;
  /** How it came by its machine; absent until that is known. */
  readonly start?: Start;
  /** Whom it may be told beside the owner, if they may still read it; absent: nobody. */
  readonly acl?: readonly string[];
};

export function siteChange(change: SiteChange['change'], system: TargetSystem): SiteChange {
  const { state, evidence, image, start, acl = [] } = system;
  const { name, version } = image.metadata;
  const told = { change, state, usable: isUsable(system), evidence, image: `${name}:${version}` };
  return { ...told, ...(start && { start }), ...(acl.length > 0 && { acl }) };
}
