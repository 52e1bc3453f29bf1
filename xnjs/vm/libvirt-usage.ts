import { asGridError } from '#kernel/errors.js';
import type { LibvirtClient } from '#kernel/libvirt/client.js';
import type { Domain } from '#kernel/libvirt/procedures.js';
import { activeOnly, toContainerSample } from './domain-stats.js';
import type { UsageSample } from './usage.js';

/** libvirt has no figures of all containers in one call, and of each only those of its cgroups. */
export async function usageOfContainers(
  client: LibvirtClient,
  isOurs: (dom: Domain) => boolean,
  timeoutMs: number,
): Promise<UsageSample[]> {
  const options = { timeoutMs };
  const listing = { need_results: 1, flags: activeOnly };
  const { domains } = await client.call('connect_list_all_domains', listing, options);
  const ours = domains.filter(isOurs);
  const samples = await Promise.all(
    ours.map(async (dom) => {
      try {
        return toContainerSample(dom, await client.call('domain_get_info', { dom }, options));
      } catch (error) {
        if (asGridError(error)?.code === 'DOMAIN_UNKNOWN') return []; // it has ended meanwhile
        throw error;
      }
    }),
  );
  return samples.flat();
}
