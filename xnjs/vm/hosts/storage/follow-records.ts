import type { TargetSystem } from '../../target-system.js';
import type { Hosts } from '../hosts.js';

export type FollowedRecords = {
  readonly records: () => Iterable<TargetSystem>;
  /** @throws when this server may not act any more */
  readonly require: () => Promise<void>;
};

/** Tells the storage of each host what is in use there. */
export function followRecords(hosts: Hosts, { records, require }: FollowedRecords): void {
  for (const { name, storage } of hosts.all)
    storage?.follow({ inUse: () => digestsOn(name, records()), require });
}

/** Of what the machines of a host are made of. */
function digestsOn(host: string, records: Iterable<TargetSystem>): Set<string> {
  const digests = new Set<string>();
  for (const record of records)
    if (record.host === host) for (const digest of digestsOf(record)) digests.add(digest);
  return digests;
}

function digestsOf({ image, agentDisks = [] }: TargetSystem): string[] {
  return [...Object.values(image.parts).map(({ sha256 }) => sha256), ...agentDisks];
}
