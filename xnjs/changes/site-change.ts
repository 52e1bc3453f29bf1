import type { Evidence, TargetSystem } from '../vm/target-system.js';

/** What is told of a target system. */
export type SiteChange = {
  readonly change: 'created' | 'state' | 'deleted';
  readonly state: TargetSystem['state'];
  /** Why it is believed. */
  readonly evidence: Evidence;
  readonly image: string;
};

export function siteChange(
  change: SiteChange['change'],
  { state, evidence, image: { metadata } }: TargetSystem,
): SiteChange {
  return { change, state, evidence, image: `${metadata.name}:${metadata.version}` };
}
