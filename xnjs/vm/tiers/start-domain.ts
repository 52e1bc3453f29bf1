import { imageFormats } from '#imagerepo/contract.js';
import type { MachineContext } from '../context/machine-context.js';
import { domainXml } from '../domain-xml.js';
import { plugIn } from '../plug-in.js';
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
 * @param context what the machine is told of itself; absent: nothing
 * @throws what image source, workspace and hypervisor do
 */
export async function startDomain(
  machine: MachineSpec,
  callerDn: string,
  options: TargetSystemsOptions,
  context?: MachineContext,
): Promise<Started> {
  const { hosts, images, workspace, installationId, network, lease } = options;
  const { image, driver } = machine;
  const { format, contextualisation } = image.metadata;
  const parts: Record<string, string> = {};
  let isFetched = false;
  for (const name of imageFormats[format].parts) {
    isFetched ||= !(await images.isHere(image, name));
    parts[name] = await images.fetch(image, name, callerDn);
  }
  const prepared = await workspace.prepare(machine, parts, context);
  const { agentDisk } = options;
  const isInjected = contextualisation?.agent === true && agentDisk !== undefined;
  const paths = { ...prepared, ...(isInjected && { agentDisk }) };
  await plugIn(machine, options);
  const words =
    context?.token !== undefined && format === 'kernel' && !paths.seed
      ? [`vsite.enrolment=${context.token}`]
      : [];
  const placed = { ...machine, sharedCores: hosts.sharedCores(machine) };
  const xml = domainXml(placed, paths, installationId, network, lease?.epoch, words);
  await lease?.require();
  const { definedMs } = await hosts.of(machine).start(driver, machine.id, xml);
  return { definedMs, isFetched };
}
