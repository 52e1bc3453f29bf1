import { z } from 'zod';
import { describeIssues } from '#kernel/config.js';
import { mostVolumes, mountPath, volumeSerial } from '#tsi/protocol/machine-setup.js';
import { VmError } from '../state.js';

export const volumeName = z
  .string()
  .regex(volumeSerial, 'must be a small letter, then small letters, digits and _, at most 20');
export const volumeSizeMiB = z.int('must be a whole number').min(1);
const path = z
  .string()
  .regex(mountPath, 'must be below /mnt, /media, /srv, /data or /scratch, without hidden names')
  .optional();

const NewVolume = z.strictObject({
  name: volumeName,
  sizeMiB: volumeSizeMiB,
  path,
  /** It outlives its machine. */
  keep: z.boolean().default(false),
});
const ExistingVolume = z.strictObject({
  /** By its id or its name. */
  volume: z.string().min(1).max(64),
  /** In the machine; absent: its own. */
  name: volumeName.optional(),
  path,
});

/** What was asked for, and where it stands in the request: for messages. */
export type VolumeWish = {
  readonly volumes: readonly (z.output<typeof NewVolume> | z.output<typeof ExistingVolume>)[];
  readonly field: string;
};

/** @throws {@link VmError} `BAD_REQUEST` naming the field and the reason */
export function readVolumes(field: string, given: unknown): VolumeWish | undefined {
  if (given === undefined || given === null) return undefined;
  if (!Array.isArray(given)) throw refusal(`${field}: must be a list of volumes`);
  if (given.length > mostVolumes)
    throw refusal(`${field}: must not be more than ${mostVolumes} volumes`);
  const volumes = given.map((each: unknown, at) => {
    const isExisting = typeof each === 'object' && each !== null && 'volume' in each;
    const read = (isExisting ? ExistingVolume : NewVolume).safeParse(each);
    if (read.success) return read.data;
    const separator = (read.error.issues[0]?.path.length ?? 0) > 0 ? '.' : ': ';
    throw refusal(`${field}.${at}${separator}${describeIssues(read.error)}`);
  });
  return { volumes, field };
}

function refusal(text: string): VmError {
  return new VmError('BAD_REQUEST', text);
}
