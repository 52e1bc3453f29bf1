import { randomUUID } from 'node:crypto';
import type { ImageMetadata } from '#imagerepo/contract.js';
import { VmError } from '../state.js';
import type { MachineVolume, Volume } from './volume.js';
import type { VolumeWish } from './volume-wish.js';

export type VolumeLimits = {
  /** The most of one target system; 0: none. */
  readonly volumes: number;
  /** The largest. */
  readonly volumeMiB: number;
};

/** What a machine is to have. */
export type ChosenVolumes = {
  readonly volumes: readonly MachineVolume[];
  /** Ids of those among them that are to be made, and outlive it. */
  readonly newVolumes: readonly string[];
};

const nothing: ChosenVolumes = { volumes: [], newVolumes: [] };

/**
 * @param find the owner's volume of that id or name
 * @throws {@link VmError} `BAD_REQUEST` naming the field and the reason, `NOT_FOUND`; `CONFLICT` it is in use
 */
export function chooseVolumes(
  wish: VolumeWish | undefined,
  { format }: Pick<ImageMetadata, 'format'>,
  limits: VolumeLimits,
  find: (reference: string) => Volume | undefined,
): ChosenVolumes {
  if (!wish || wish.volumes.length === 0) return nothing;
  const { field } = wish;
  if (format === 'rootfs') throw refusal(field, 'containers have no disks');
  if (wish.volumes.length > limits.volumes)
    throw refusal(field, `a target system has at most ${limits.volumes} volumes on this site`);
  const newVolumes: string[] = [];
  const volumes = wish.volumes.map((each, at): MachineVolume => {
    if ('volume' in each) return existing(each, find(each.volume), `${field}.${at}`);
    const { name, sizeMiB, path, keep } = each;
    if (sizeMiB > limits.volumeMiB)
      throw refusal(
        `${field}.${at}.sizeMiB`,
        `${sizeMiB} MiB is above ${limits.volumeMiB}, the largest on this site`,
      );
    const own = { name, sizeMiB, path: path ?? usualPath(name) };
    if (!keep) return own;
    if (find(name))
      throw refusal(
        `${field}.${at}.name`,
        `you have a volume ${name}; to have that: {"volume": "${name}"}`,
      );
    const volumeId = randomUUID();
    newVolumes.push(volumeId);
    return { ...own, volumeId };
  });
  refuseOverlaps(volumes, field);
  return { volumes, newVolumes };
}

function existing(
  { volume, name, path }: { volume: string; name?: string | undefined; path?: string | undefined },
  found: Volume | undefined,
  field: string,
): MachineVolume {
  if (!found) throw new VmError('NOT_FOUND', `${field}.volume: you have no volume ${volume}`);
  const own = name ?? found.name;
  return {
    ...{ name: own, sizeMiB: found.sizeMiB, path: path ?? usualPath(own), volumeId: found.id },
    ...(found.wasUsed && { wasUsed: true as const }),
  };
}

const usualPath = (name: string): string => `/mnt/${name}`;

/** What is on one volume is nobody's business on the way to another. */
function refuseOverlaps(volumes: readonly MachineVolume[], field: string): void {
  volumes.forEach(({ name, path, volumeId }, at) => {
    for (const other of volumes.slice(0, at)) {
      const where = `${field}.${at}`;
      if (other.name === name) throw refusal(`${where}.name`, `another is called ${name}`);
      if (volumeId !== undefined && other.volumeId === volumeId)
        throw refusal(`${where}.volume`, 'it is there twice');
      if (`${path}/`.startsWith(`${other.path}/`) || `${other.path}/`.startsWith(`${path}/`))
        throw refusal(`${where}.path`, `${path} is not apart from ${other.path}, another's`);
    }
  });
}

function refusal(field: string, reason: string): VmError {
  return new VmError('BAD_REQUEST', `${field}: ${reason}`);
}
