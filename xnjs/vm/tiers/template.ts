import { createHash } from 'node:crypto';
import type { OwnedRecord, RecordStore } from '../../data/owned-records.js';
import { domainXml } from '../domain-xml.js';
import type { MachineSpec } from '../target-system.js';
import type { Patch } from './memory-file.js';
import { specOf } from './same-machine.js';

/** The saved memory of a machine that was booted for that and was nobody's: the durable record. */
export type Template = OwnedRecord &
  MachineSpec & {
    /** What it depends on beside its image: the definition of its machine, hypervisor, processor. */
    readonly fingerprint: string;
    /** Equal on hosts that are alike; absent: of an earlier version. */
    readonly kind?: string;
    /** Where its files are; absent: in this server's directory. */
    readonly place?: string;
    /** Where the file says who the machine is; absent: it was not saved yet. */
    readonly patches?: readonly Patch[];
    /** The machine's memory is in a file of its own, which says so there; absent: it is in libvirt's. */
    readonly mapped?: { readonly sizeBytes: number; readonly patches: readonly Patch[] };
    /** Of its machine's only boot; there as soon as its agent has answered. */
    readonly bootId?: string;
    /** Its image was the newest of its name, which the next one is hot for. */
    readonly isNewest?: boolean;
    /** When a machine was last started from it; absent: never. */
    readonly usedMs?: number;
  };
export type TemplateStore = RecordStore<Template>;

/** Another one when a server of another version would define such a machine otherwise. */
export function fingerprintOf(machine: Omit<MachineSpec, 'id'>, host: string): string {
  const id = '00000000-0000-4000-8000-000000000000';
  const paths = { console: 'c', kernel: 'k', initrd: 'i', agentSocket: 's', screenSocket: 'v' };
  const xml = domainXml(specOf({ ...machine, id }), paths, '');
  return createHash('sha256').update(`${host}\n${xml}`).digest('hex');
}

/** The only ones whose machines can be copied: others have a disk that goes with the memory, or no memory to save. */
export function isCopyable({
  image: { metadata },
  driver,
  parameters,
  volumes = [],
}: Pick<MachineSpec, 'image' | 'driver' | 'parameters' | 'volumes'>): string | true {
  if (driver === 'lxc') return 'containers have no memory to save';
  if (volumes.length > 0) return 'machines with volumes are not copied';
  if (metadata.format !== 'kernel') return `machines of format ${metadata.format} are not copied`;
  if (metadata.contextualisation?.nocloud === true)
    return 'machines with a seed disk are not copied';
  if (metadata.tsi.transport !== 'channel') return 'its TSI is not our agent';
  const { network = metadata.requirements.network ?? 'none' } = parameters;
  if (network !== 'none') return 'machines with a network card are not copied';
  return true;
}
