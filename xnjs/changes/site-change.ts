import type { Evidence, TargetSystem } from '../vm/target-system.js';

/** What is told of a target system. */
export type SiteChange = {
  readonly change: 'created' | 'state' | 'deleted';
  readonly state: TargetSystem['state'];
  /** Why it is believed. */
  readonly evidence: Evidence;
  readonly image: string;
  /** Whom it may be told beside the owner, if they may still read it; absent: nobody. */
  readonly acl?: readonly string[];
};

export function siteChange(
  change: SiteChange['change'],
  { state, evidence, image: { metadata }, acl = [] }: TargetSystem,
): SiteChange {
  const image = `${metadata.name}:${metadata.version}`;
  return { change, state, evidence, image, ...(acl.length > 0 && { acl }) };
}
