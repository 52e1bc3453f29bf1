import { asGridError } from '#kernel/errors.js';
import type { LibvirtClient } from '#kernel/libvirt/client.js';
import type { Domain } from '#kernel/libvirt/procedures.js';
import { toContainerSample } from './domain-stats.js';
import type { UsageSample } from './usage.js';

/** libvirt has no figures of all containers in one call, and of each only those of its cgroups. */
export async function usageOfContainers(
  client: LibvirtClient,
  domains: readonly Domain[],
  timeoutMs: number,
): Promise<UsageSample[]> {
  const options = { timeoutMs };
  const samples = await Promise.all(
    domains.map(async (dom) => {
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
