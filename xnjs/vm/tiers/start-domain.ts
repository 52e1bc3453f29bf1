import type { MachineContext } from '../context/machine-context.js';
import { domainXml, type DomainPaths } from '../domain-xml.js';
import { plugIn } from '../plug-in.js';
import type { MachineSpec } from '../target-system.js';
import type { TargetSystemsOptions } from '../target-systems-options.js';
import { agentDiskOf, copyable, fetchParts, type ImageParts } from './image-files.js';

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
  const { hosts, installationId, network, lease } = options;
  const parts = await fetchParts(machine, callerDn, options);
  const paths = await prepareFiles(machine, parts, options, context);
  await plugIn(machine, options);
  const words =
    context?.token !== undefined && machine.image.metadata.format === 'kernel' && !paths.seed
      ? [`vsite.enrolment=${context.token}`]
      : [];
  const placed = { ...machine, sharedCores: hosts.sharedCores(machine) };
  const xml = domainXml(placed, paths, installationId, network, lease?.epoch, words);
  await lease?.require();
  const { definedMs } = await hosts.of(machine).start(machine.driver, machine.id, xml);
  return { definedMs, isFetched: parts.isFetched };
}

/** What the domain needs, where its host finds it. */
export async function prepareFiles(
  machine: MachineSpec,
  parts: ImageParts,
  options: TargetSystemsOptions,
  context?: MachineContext,
): Promise<DomainPaths> {
  const { hosts, workspace } = options;
  const storage = hosts.storageOf(machine);
  if (storage) {
    const seed = await workspace.seed(machine, context);
    return await storage.prepare(machine, await copyable(machine, parts, options), seed);
  }
  const agentDisk = agentDiskOf(machine, options);
  const prepared = await workspace.prepare(machine, parts.paths, context);
  return { ...prepared, ...(agentDisk !== undefined && { agentDisk }) };
}
