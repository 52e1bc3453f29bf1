import { formatDate } from '#kernel/clock.js';

/** What every owned resource shows (unicore-rest 1.8). `terminationTime` absent: never expires. */
export function ownedResource(resource: {
  ownerDn: string;
  tags: readonly string[];
  terminationMs?: number | undefined;
}): Record<string, unknown> {
  return {
    owner: resource.ownerDn,
    acl: [],
    tags: resource.tags,
    ...(resource.terminationMs !== undefined && {
      terminationTime: formatDate(resource.terminationMs),
    }),
  };
}
