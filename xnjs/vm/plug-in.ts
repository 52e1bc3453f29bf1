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

/** The same for whoever has them brought down and up again. */
export function plugs(options: Parameters<typeof plugIn>[1]): {
  readonly plugIn: (machine: MachineSpec) => Promise<void>;
  readonly unplug: (machine: MachineSpec) => Promise<void>;
} {
  return {
    plugIn: (machine) => plugIn(machine, options),
    unplug: async (machine) => await options.networks?.release(machine),
  };
}
