import { isIPv4 } from 'node:net';
import { networkInterfaces } from 'node:os';
import { whyNoUserNetwork } from '#kernel/libvirt/network-namespace.js';
import { parseUri } from '#kernel/libvirt/uri.js';
import type { Log } from '#kernel/log.js';
import { HostNetworks } from './host-networks.js';
import type { HostConfig } from './hosts/config.js';
import { localHost } from './hosts/host.js';
import { LibvirtNetworks } from './libvirt-networks.js';
import { MachineNetworks } from './machine-networks.js';
import type { NetworksConfig } from './network-config.js';

type Config = {
  readonly hypervisor: {
    readonly networks: NetworksConfig;
    readonly machines?: string | undefined;
    readonly hosts?: readonly Pick<HostConfig, 'name' | 'uri' | 'addresses'>[];
  };
};

type Parts = {
  /** Connections to the hypervisors of each host. */
  readonly clients: ReadonlyMap<string, Clients>;
  readonly installationId: string;
  readonly log: Log;
};
type Clients = ConstructorParameters<typeof LibvirtNetworks>[0];

/** Networks of users' machines, on the hypervisors that make these. */
export function openNetworks(
  { hypervisor: { networks: config, machines, hosts = [] } }: Config,
  { clients, installationId, log }: Parts,
): MachineNetworks {
  const others = hosts.filter(({ name }) => name !== localHost);
  // none of our hosts is reached from any: each of them may serve what is private
  const known = (): string[] => [...ownAddresses(), ...others.flatMap(addressesOf)];
  const all = [...clients].map(([host, its]) => {
    const isKnown = host === localHost || hosts.find(({ name }) => name === host)?.addresses;
    return new HostNetworks({
      ...{ host, config, installationId, hypervisor: new LibvirtNetworks(its, installationId) },
      addresses: () => (isKnown ? known() : undefined),
      whyNoUserNetwork: () =>
        host === localHost ? whyNoUserNetwork(machines) : Promise.resolve(notThere),
      log: log.child({ part: 'xnjs.vm.networks' }),
    });
  });
  return new MachineNetworks({ config, hosts: all, log });
}

const notThere = 'libvirtd is on another host, whose loopback it might reach';

function ownAddresses(): string[] {
  const all = Object.values(networkInterfaces()).flatMap((each) => each ?? []);
  return all.filter(({ family }) => family === 'IPv4').map(({ address }) => address);
}

/** What the operator says, and by which we reach it. */
function addressesOf({ uri, addresses = [] }: Pick<HostConfig, 'uri' | 'addresses'>): string[] {
  const address = uri === undefined ? undefined : parseUri(uri).address;
  const host = address && 'host' in address ? [address.host].filter(isIPv4) : [];
  return [...addresses, ...host];
}
