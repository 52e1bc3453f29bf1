import { imageFormats } from '#imagerepo/contract.js';
import { domainXml } from '../domain-xml.js';
import { networkDefinition } from '../network.js';
import type { MachineSpec } from '../target-system.js';
import type { TargetSystemsOptions } from '../target-systems-options.js';

export type Started = {
  /** ms since the epoch */
  readonly definedMs: number;
  /** Its image had to be copied to this host first. */
  readonly isFetched: boolean;
};

/**
 * Boots a machine from its image. May be repeated: what is there already is used.
 * @param callerDn by whose right the image is read
 * @throws what image source, workspace and hypervisor do
 */
export async function startDomain(
  machine: MachineSpec,
  callerDn: string,
  { hosts, images, workspace, installationId, network, lease }: TargetSystemsOptions,
): Promise<Started> {
  const { image, driver } = machine;
  const parts: Record<string, string> = {};
  let isFetched = false;
  for (const name of imageFormats[image.metadata.format].parts) {
    isFetched ||= !(await images.isHere(image, name));
    parts[name] = await images.fetch(image, name, callerDn);
  }
  const paths = await workspace.prepare(machine, parts);
  if (network && image.metadata.tsi.transport === 'tcp')
    await hosts.of(machine).ensureNetwork(driver, networkDefinition(network));
  const xml = domainXml(machine, paths, installationId, network, lease?.epoch);
  await lease?.require();
  const { definedMs } = await hosts.of(machine).start(driver, machine.id, xml);
  return { definedMs, isFetched };
}
