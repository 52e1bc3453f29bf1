import { networkInterfaces } from 'node:os';
import type { Log } from '#kernel/log.js';
import { LibvirtNetworks } from './libvirt-networks.js';
import { MachineNetworks } from './machine-networks.js';
import type { NetworksConfig } from './network-config.js';
import { whyNoUserNetwork } from '#kernel/libvirt/network-namespace.js';

/** Networks of users' machines, on the hypervisor that makes these. */
export function openNetworks(
  {
    hypervisor: { networks: config, machines },
  }: { hypervisor: { networks: NetworksConfig; machines?: string | undefined } },
  {
    clients,
    ...common
  }: { readonly clients: Clients; readonly installationId: string; readonly log: Log },
): MachineNetworks {
  const own = Object.values(networkInterfaces()).flatMap((each) => each ?? []);
  return new MachineNetworks({
    config,
    hypervisor: new LibvirtNetworks(clients, common.installationId),
    hostAddresses: own.filter(({ family }) => family === 'IPv4').map(({ address }) => address),
    whyNoUserNetwork: () => whyNoUserNetwork(machines),
    ...common,
  });
}

type Clients = ConstructorParameters<typeof LibvirtNetworks>[0];
