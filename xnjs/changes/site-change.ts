import type { Evidence, Start, TargetSystem } from '../vm/target-system.js';

/** What is told of a target system. */
export type SiteChange = {
  readonly change: 'created' | 'state' | 'deleted';
  readonly state: TargetSystem['state'];
  /** Why it is believed. */
  readonly evidence: Evidence;
  readonly image: string;
  /** How it came by its machine; absent until that is known. */
  readonly start?: Start;
};

export function siteChange(
  change: SiteChange['change'],
  { state, evidence, image: { metadata }, start }: TargetSystem,
): SiteChange {
  const image = `${metadata.name}:${metadata.version}`;
  return { change, state, evidence, image, ...(start && { start }) };
}
