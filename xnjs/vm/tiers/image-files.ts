import { stat } from 'node:fs/promises';
import { imageFormats, type PartName } from '#imagerepo/contract.js';
import { digestOf, type MachineFiles } from '../hosts/storage/host-storage.js';
import { VmError } from '../state.js';
import type { MachineSpec, TargetSystem } from '../target-system.js';
import type { TargetSystemsOptions } from '../target-systems-options.js';

export type ImageParts = {
  /** Files of this server. */
  readonly paths: Partial<Record<PartName, string>>;
  /** They had to be copied to this server first. */
  readonly isFetched: boolean;
};

/** The image as files of this server. @param callerDn by whose right it is read */
export async function fetchParts(
  { image }: Pick<MachineSpec, 'image'>,
  callerDn: string,
  { images }: Pick<TargetSystemsOptions, 'images'>,
): Promise<ImageParts> {
  const paths: Partial<Record<PartName, string>> = {};
  let isFetched = false;
  for (const name of imageFormats[image.metadata.format].parts) {
    isFetched ||= !(await images.isHere(image, name));
    paths[name] = await images.fetch(image, name, callerDn);
  }
  return { paths, isFetched };
}

/** The disk with our agent, for images that want it. */
export function agentDiskOf(
  { image }: Pick<MachineSpec, 'image'>,
  { agentDisk }: Pick<TargetSystemsOptions, 'agentDisk'>,
): string | undefined {
  return image.metadata.contextualisation?.agent === true ? agentDisk : undefined;
}

/** With what they are known by on hosts that they are copied to. */
export async function copyable(
  machine: Pick<MachineSpec, 'image'>,
  { paths }: ImageParts,
  options: Pick<TargetSystemsOptions, 'agentDisk'>,
): Promise<MachineFiles> {
  const parts: MachineFiles['parts'] = Object.fromEntries(
    Object.entries(paths).map(([name, path]) => {
      const part = machine.image.parts[name as PartName]; // keys of the type
      if (!part) throw new VmError('IMAGE_INVALID', `the image has no part ${name}`);
      return [name, { sha256: part.sha256, sizeBytes: part.sizeBytes, path }];
    }),
  );
  const agentDisk = agentDiskOf(machine, options);
  return { parts, ...(agentDisk !== undefined && { agentDisk: await digested(agentDisk) }) };
}

/** With the disk that its next domain gets; one that is there may have that of before. */
export async function withAgentDisk<M extends Pick<TargetSystem, 'image' | 'agentDisks'>>(
  record: M,
  options: Pick<TargetSystemsOptions, 'agentDisk'>,
): Promise<M> {
  const path = agentDiskOf(record, options);
  const { agentDisks = [] } = record;
  const sha256 = path !== undefined && (await digested(path)).sha256;
  if (sha256 === false || agentDisks.includes(sha256)) return record;
  return { ...record, agentDisks: [...agentDisks, sha256] };
}

const digests = new Map<string, Promise<string>>();

/** Read once as long as it is not written to. */
async function digested(path: string): Promise<NonNullable<MachineFiles['agentDisk']>> {
  const { size: sizeBytes, mtimeMs } = await stat(path);
  const key = `${path} ${sizeBytes} ${mtimeMs}`;
  const digest = digests.get(key) ?? digestOf(path);
  digests.set(key, digest);
  digest.catch(() => digests.delete(key)); // the next time it may be read
  return { sha256: await digest, sizeBytes, path };
}
