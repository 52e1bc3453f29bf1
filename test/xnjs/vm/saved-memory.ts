import type { Host } from '#xnjs/vm/hosts/host.js';
import type { HostStorage } from '#xnjs/vm/hosts/storage/host-storage.js';
import type { Hypervisor } from '#xnjs/vm/hypervisor.js';
import { kindOf } from '#xnjs/vm/tiers/kinds.js';
import { fingerprintOf, type Template } from '#xnjs/vm/tiers/template.js';
import { anImageMetadata, aTargetSystem, plainHost } from './samples.js';

/** A host as far as it is asked here. @param described what its hypervisor says of itself; absent: it is away */
export function aHost(name: string, described: string | undefined, pool?: string): Host {
  const hypervisor = {
    available: () => (described === undefined ? [] : ['qemu']),
    describe: () => Promise.resolve(described),
    onAvailable: () => () => undefined,
  } as unknown as Hypervisor; // the calls that are made are above
  const storage = pool !== undefined && { storage: { status: { pool } } as unknown as HostStorage };
  return { name, hypervisor, ...plainHost, ...storage };
}

/** Taken on `north` when it was of kind `a`. */
export function aTemplate(place?: string): Template {
  const metadata = anImageMetadata({ format: 'kernel' });
  const image = { id: 'i', metadata, parts: {} };
  const { id, ownerDn, tags, parameters } = aTargetSystem();
  const machine = { id, image, parameters, driver: 'qemu', host: 'north' } as const;
  const about = { ownerDn, tags, createdMs: 0, kind: kindOf('a') };
  return {
    ...machine,
    ...about,
    fingerprint: fingerprintOf(machine, 'a'),
    ...(place && { place }),
  };
}
export const on = (host: string) => ({ host, driver: 'qemu' }) as const;
