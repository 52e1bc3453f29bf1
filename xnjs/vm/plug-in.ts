import { networkDefinition } from './network.js';
import type { MachineSpec } from './target-system.js';
import type { TargetSystemsOptions } from './target-systems-options.js';

/** Makes what a machine is plugged into: its host may have been started anew meanwhile. May be repeated. */
export async function plugIn(
  machine: MachineSpec,
  { hosts, network, networks }: Pick<TargetSystemsOptions, 'hosts' | 'network' | 'networks'>,
): Promise<void> {
  if (network && machine.image.metadata.tsi.transport === 'tcp')
    await hosts.of(machine).ensureNetwork(machine.driver, networkDefinition(network));
  await networks?.ensure(machine);
}
