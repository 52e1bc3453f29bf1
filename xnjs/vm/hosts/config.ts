import { z } from 'zod';
import { errorText } from '#kernel/errors.js';
import { parseUri } from '#kernel/libvirt/uri.js';
import { PinningConfig } from './cores.js';
import { localHost } from './host.js';
import { HostLabel } from './labels.js';
import { range } from '../network-config.js';

const accelerations = ['kvm', 'qemu'] as const;
const most = z.int().positive().optional();
const none = z.int().nonnegative().default(0);

/** A host with a libvirt of its own; `local` is that of this server, of which this says only the rest. */
export const HostConfig = z
  .strictObject({
    name: z.string().regex(/^[a-z0-9][a-z0-9.-]{0,62}$/, 'must be a host name in small letters'),
    /** Of the libvirt for its virtual machines: `qemu+tls://host/system`, `qemu+ssh://user@host/system` */
    uri: z.string().optional(),
    /** Of the libvirt for its containers: `lxc+tls://host/system`; the server's files have to be there. */
    containers: z.string().optional(),
    /** `kvm` only where a guest really booted with it; else software emulation */
    acceleration: z.enum(accelerations).optional(),
    /**
     * `shared`: the server's `stateDirectory` is there under the same path, the same files; `copied`: it is not, and
     * images are copied into a storage pool of that host.
     */
    images: z.enum(['shared', 'copied']).optional(),
    storage: z
      .strictObject({
        /** Name of a pool of kind `dir`, which libvirt there knows. */
        pool: z.string().min(1).max(128),
        /** What copies of images take of it together at most. */
        imagesMiB: z.int().positive(),
      })
      .optional(),
    /**
     * All its IPv4 addresses, or networks with them: no machine of this site reaches them. Absent: machines there have no
     * networks.
     */
    addresses: z.array(range).min(1).max(256).optional(),
    /** What a wish may ask for: `gpu`, `ssd`, `building=7` */
    labels: z.array(HostLabel).default([]),
    /** What machines have together there at most; absent: what libvirt says of the host, less `reserved`. */
    capacity: z.strictObject({ cores: most, memoryMiB: most, diskMiB: most }).prefault({}),
    reserved: z.strictObject({ cores: none, memoryMiB: none }).prefault({}),
    /** Cores that machines may have for themselves; absent: none. */
    pinning: PinningConfig.optional(),
    /** Takes no new machines; those that are there stay. */
    drain: z.boolean().default(false),
  })
  .superRefine(({ name, uri, containers, images, storage, ...rest }, context) => {
    const fault = (path: string, message: string): void =>
      context.addIssue({ code: 'custom', path: [path], message });
    if (name === localHost) {
      if (uri !== undefined) fault('uri', 'of the host local is hypervisor.machines');
      if (containers !== undefined)
        fault('containers', 'of the host local is hypervisor.containers');
      if (rest.acceleration) fault('acceleration', 'of the host local is hypervisor.acceleration');
      if (images === 'copied') fault('images', 'of the host local are here: nothing is copied');
      if (storage) fault('storage', 'of the host local is stateDirectory');
      if (rest.addresses) fault('addresses', 'of the host local are read there');
      return;
    }
    if (uri === undefined && containers === undefined) fault('uri', 'must be given, or containers');
    for (const [path, driver, given] of [
      ['uri', 'qemu', uri],
      ['containers', 'lxc', containers],
    ] as const) {
      const reason = given === undefined ? undefined : unusable(given, driver);
      if (reason !== undefined) fault(path, reason);
    }
    if (uri === undefined && rest.acceleration) fault('acceleration', 'is of the machines of uri');
    if (containers !== undefined && images === 'copied')
      fault(
        'containers',
        "run on the server's files, which libvirt cannot copy: images must be shared",
      );
    if (images === undefined)
      fault('images', 'must be shared (stateDirectory is there under the same path) or copied');
    if (images === 'copied' && !storage)
      fault('storage', 'must be given where images are copied: {pool, imagesMiB}');
    if (images === 'shared' && storage) fault('storage', 'is for hosts whose images are copied');
  });
export type HostConfig = z.output<typeof HostConfig>;

/** Member of `hypervisor`. */
export const HostsConfig = z
  .array(HostConfig)
  .max(256)
  .default([])
  .superRefine((hosts, context) => {
    hosts.forEach(({ name }, at) => {
      if (hosts.findIndex((other) => other.name === name) !== at)
        context.addIssue({ code: 'custom', path: [at, 'name'], message: `${name} is there twice` });
    });
  });

function unusable(uri: string, driver: string): string | undefined {
  try {
    return parseUri(uri).driverUri.startsWith(`${driver}:`)
      ? undefined
      : `must be of the driver ${driver}`;
  } catch (error) {
    return errorText(error);
  }
}
