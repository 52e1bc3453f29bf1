import type { TargetSystem } from '../../target-system.js';
import type { Hosts } from '../hosts.js';

/** A machine of a user's, or of nobody's. */
type Made = Pick<TargetSystem, 'host' | 'image'> & {
  readonly agentDisks?: TargetSystem['agentDisks'] | undefined;
};

export type FollowedRecords = {
  readonly records: () => Iterable<Made>;
  /** @throws when this server may not act any more */
  readonly require: () => Promise<void>;
};

/** Tells the storage of each host what is in use there. */
export function followRecords(hosts: Hosts, { records, require }: FollowedRecords): void {
  for (const { name, storage } of hosts.all)
    storage?.follow({ inUse: () => digestsOn(name, records()), require });
}

/** Of what the machines of a host are made of. */
function digestsOn(host: string, records: Iterable<Made>): Set<string> {
  const digests = new Set<string>();
  for (const record of records)
    if (record.host === host) for (const digest of digestsOf(record)) digests.add(digest);
  return digests;
}

function digestsOf({ image, agentDisks = [] }: Made): string[] {
  return [...Object.values(image.parts).map(({ sha256 }) => sha256), ...agentDisks];
}
