import { networkInterfaces } from 'node:os';
import { errorText } from '#kernel/errors.js';
import { LibvirtClient } from '#kernel/libvirt/client.js';
import { libvirtCode } from '#kernel/libvirt/errors.js';
import { PoolVolumes } from '#kernel/libvirt/pool-volumes.js';
import { silentLog } from '#kernel/log.js';
import type { TargetsystemConfig } from '#targetsystem/main.js';
import { bad, doubtful, good, together, type Finding } from './finding.js';
import { checkLibvirt } from './versions.js';

/** libvirt's code for it. */
const noSuchNetwork = 43;

/** One that does not answer has machines of which nothing is known. */
export async function checkHosts(
  hosts: TargetsystemConfig['xnjs']['hypervisor']['hosts'],
): Promise<Finding> {
  const others = hosts.flatMap(({ name, uri, containers, storage }) => [
    ...(uri === undefined ? [] : [{ name, uri, pool: storage?.pool }]),
    ...(containers === undefined
      ? []
      : [{ name: `${name} (containers)`, uri: containers, pool: undefined }]),
  ]);
  const found = await Promise.all(
    others.map(async ({ name, uri, pool }) => {
      const finding = await checkLibvirt(uri);
      const isAll = finding.state !== 'good' || pool === undefined;
      const { text, ...rest } = isAll ? finding : await checkPool(uri, pool);
      return { ...rest, text: `${name}: ${text}` }; // as: spread forgets the union
    }),
  );
  return together(found, found.length === 0 ? 'there are none' : `all ${found.length} answer`);
}

/** Of a host that images are copied to. */
async function checkPool(uri: string, pool: string): Promise<Finding> {
  try {
    await using client = await LibvirtClient.connect({ uri, log: silentLog });
    const bytes = await new PoolVolumes(client, pool).availableBytes();
    return good(`storage pool ${pool}: ${Math.floor(bytes / 1024 ** 2)} MiB free`);
  } catch (error) {
    return bad(errorText(error), 'define the pool there, or correct xnjs.hypervisor.hosts');
  }
}

/** For images whose TSI is reached over TCP; most need none. */
export async function checkNetwork({
  machines: uri,
  network,
}: TargetsystemConfig['xnjs']['hypervisor']): Promise<Finding> {
  if (!network)
    return doubtful(
      'none: images with tsi.transport tcp are refused',
      "set xnjs.hypervisor.network, with a libvirtd in this host's own network; a quickstart's is not",
    );
  if (uri === undefined) return bad('no libvirt for machines', 'set xnjs.hypervisor.machines');
  try {
    await using client = await LibvirtClient.connect({ uri, log: silentLog });
    await client.call('network_lookup_by_name', { name: network.name });
  } catch (error) {
    // it is made with the first machine that wants it
    if (libvirtCode(error) !== noSuchNetwork)
      return bad(
        errorText(error),
        'install libvirt-daemon with its network and nwfilter drivers, and dnsmasq-base',
      );
    return good(`${network.name} is made when a machine needs it`);
  }
  const [address = ''] = network.server.split('/');
  const own = Object.values(networkInterfaces()).flatMap((each) => each ?? []);
  if (own.some((each) => each.address === address)) return good(`${network.name}, ${address}`);
  return bad(
    `libvirt has ${network.name}, and this host has no address ${address}`,
    "libvirtd has a network namespace of its own: use the system's",
  );
}
