import type { LibvirtClient } from '#kernel/libvirt/client.js';
import { isUnknownDomain } from '#kernel/libvirt/errors.js';
import { toContainerSample } from './domain-stats.js';
import type { UsageSample } from './usage.js';

/** libvirt has no figures of all containers in one call, and of each only those of its cgroups. */
export async function usageOfContainers(
  client: LibvirtClient,
  ids: readonly string[],
  timeoutMs: number,
): Promise<UsageSample[]> {
  const options = { timeoutMs };
  const samples = await Promise.all(
    ids.map(async (uuid) => {
      try {
        // which run the figures are of, they do not say themselves
        const { dom } = await client.call('domain_lookup_by_uuid', { uuid }, options);
        if (dom.id === -1) return [];
        return toContainerSample(dom, await client.call('domain_get_info', { dom }, options));
      } catch (error) {
        if (isUnknownDomain(error)) return []; // it has ended meanwhile
        throw error;
      }
    }),
  );
  return samples.flat();
}
