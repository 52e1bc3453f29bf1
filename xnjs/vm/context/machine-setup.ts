import type { MachineSetup, SetupReport } from '#tsi/protocol/machine-setup.js';
import { parameterVariables } from '../image-parameters.js';
import type { TargetSystem } from '../target-system.js';
import { volumesOf, type MachineVolume } from '../volumes/volume.js';

/** What a machine is told to do for its owner before jobs run there (ADR 040); `undefined`: nothing. */
export function setupOf(record: TargetSystem): MachineSetup | undefined {
  const variables = parameterVariables(record.imageParameters);
  const own = volumesOf(record);
  if (Object.keys(variables).length === 0 && own.length === 0) return undefined;
  const volumes = own.map(({ name, path, wasUsed = false }) => ({
    ...{ serial: name, path, isNew: !wasUsed },
  }));
  return { variables, login: record.image.metadata.tsi.login, volumes };
}

/** Of the environment of all jobs there. */
export function jobVariables(record: TargetSystem): Readonly<Record<string, string>> {
  const volumes = (record.volumes ?? []).map((volume) => [
    `VSITE_VOLUME_${volume.name}`,
    whereIs(volume, record),
  ]);
  return {
    ...parameterVariables(record.imageParameters),
    ...(Object.fromEntries(volumes) as Record<string, string>), // pairs of texts
  };
}

/** Its directory, else its device: as the agent says, or as cloud-init and udev have it where none of ours is. */
function whereIs({ name, path }: MachineVolume, { setup, image }: TargetSystem): string {
  const report = setup?.volumes.find(({ serial }) => serial === name);
  const told = report && (report.path ?? report.device);
  const { tsi, contextualisation } = image.metadata;
  const isMounted = tsi.transport === 'tcp' && contextualisation?.nocloud === true;
  return told ?? (isMounted ? path : deviceOf(name));
}

/** In a system with udev. */
export function deviceOf(serial: string): string {
  return `/dev/disk/by-id/virtio-${serial}`;
}

export const olderAgent = 'its agent is an older one, which does not know how';

/** None of it was done, as far as is known. */
export function failedSetup({ volumes }: MachineSetup, problem: string): SetupReport {
  return { volumes: volumes.map(({ serial }) => ({ serial, problem })), problem };
}

export function hasProblem({ problem, volumes }: SetupReport): boolean {
  return problem !== undefined || volumes.some((volume) => volume.problem !== undefined);
}
