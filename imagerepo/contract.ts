import { z } from 'zod';
import {
  entryName as name,
  IdbApplication,
  IdbInfo,
  IdbPartitions,
  IdbResources,
  line,
  twiceNamed,
} from './contract-idb.js';
import { ImageParameters } from './contract-parameters.js';

export * from './contract-idb.js';
export * from './contract-parameters.js';

/**
 * What the image repository and its users agree on: the metadata that an image creator writes, the
 * record that the repository answers with, and the routes. This file is the only one of `imagerepo/`
 * that other folders may import; `contract-idb.ts` and `contract-parameters.ts` are parts of it.
 */

const range = (unit: string, max: number) =>
  z
    .strictObject({
      min: z.int().min(1).max(max).describe(`smallest, in ${unit}`),
      default: z.int().min(1).max(max),
      max: z.int().min(1).max(max),
    })
    .refine((r) => r.min <= r.default && r.default <= r.max, 'must have min <= default <= max');

/** How the image boots, and so which parts it consists of and which hypervisors can run it. */
export const imageFormats = {
  /** A kernel and an initial RAM disk that holds the whole system; each boot starts afresh. */
  kernel: { parts: ['kernel', 'initrd'], drivers: ['qemu', 'kvm'] },
  /** A bootable disk; each target system writes to its own overlay. */
  qcow2: { parts: ['disk'], drivers: ['qemu', 'kvm'] },
  /** A tar of a root file system, started as a container. */
  rootfs: { parts: ['rootfs'], drivers: ['lxc'] },
} as const;

export const partNames = ['kernel', 'initrd', 'disk', 'rootfs'] as const;
export type PartName = (typeof partNames)[number];

const Contextualisation = z
  .strictObject({
    /** Its machines get a disk labelled `CIDATA` with what cloud-init reads. */
    nocloud: z.boolean().default(false),
    /** It holds no TSI: our agent is put in by way of cloud-init. */
    agent: z.boolean().default(false),
    /** Owners of target systems may bring user data of their own for cloud-init. */
    userData: z.boolean().default(false),
    /** `required`: an agent that cannot prove which machine it is gets no work. */
    enrolment: z.enum(['optional', 'required']).default('optional'),
  })
  .refine(({ nocloud, agent }) => nocloud || !agent, {
    path: ['agent'],
    error: 'needs nocloud: true',
  })
  .refine(({ nocloud, userData }) => nocloud || !userData, {
    path: ['userData'],
    error: 'needs nocloud: true',
  });

/** Where an image comes from that was made of a machine. */
const ImageOrigin = z.strictObject({
  /** The image that the machine was made from. */
  image: z.uuid(),
  name,
  version: name,
  /** The target system, and the task that has made this of it. */
  site: z.uuid(),
  task: z.uuid(),
  /** From when its disk is. */
  time: line,
});

/**
 * What of a network a machine can have, beside the channel to its agent. `user`: QEMU's own; `nat`: out to the
 * world; `isolated`: one of its own; `bridge`: the operator's.
 */
export const networkKinds = ['none', 'user', 'nat', 'isolated', 'bridge'] as const;
export type NetworkKind = (typeof networkKinds)[number];

/** What the image creator writes. Unknown keys are refused, each error names its field. */
export const ImageMetadata = z
  .strictObject({
    name,
    version: z.string().regex(/^[A-Za-z0-9][A-Za-z0-9._+-]{0,39}$/),
    description: line.default(''),
    /** `private`: only the owner sees it. `public`: every user of the site. */
    visibility: z.enum(['private', 'public']).default('private'),
    format: z.enum(['kernel', 'qcow2', 'rootfs']),
    os: z.strictObject({
      /** CIM name, as in JSDL 1.0, 6.4.5 */
      type: z.enum(['LINUX', 'FREEBSD', 'WINNT', 'OTHER']).default('LINUX'),
      distribution: name,
      version: name,
      architecture: z.enum(['x86_64', 'aarch64']).default('x86_64'),
    }),
    /** The image's fragment of the incarnation database. */
    applications: z
      .array(IdbApplication)
      .max(500)
      .refine((all) => twiceNamed(all) === undefined, 'names an application and version twice')
      .default([]),
    /** Batch queues of a machine that has its own batch system. */
    partitions: IdbPartitions.optional(),
    /** What else jobs may ask for, in every partition. */
    resources: IdbResources.optional(),
    info: IdbInfo.optional(),
    /** What owners of target systems may decide about their machines, by name. */
    parameters: ImageParameters.optional(),
    requirements: z.strictObject({
      cpus: range('virtual CPUs', 512),
      memoryMiB: range('MiB', 16_777_216),
      /** What its machines have where nobody asks for another (`kernel`, `qcow2`, with `transport: channel`). */
      network: z.enum(networkKinds).optional(),
    }),
    /** Whether the machine has a display adapter, a keyboard and a pointer (`kernel`, `qcow2`). */
    display: z.boolean().optional(),
    /** Written by the site that has saved a machine as image. */
    origin: ImageOrigin.optional(),
    tsi: z.strictObject({
      /**
       * `channel`: our agent, over the hypervisor's own channel, no network needed. `tcp`: any UNICORE TSI
       * with a main of its own, over a network that only server and machine share (`kernel`, `qcow2`).
       */
      transport: z.enum(['channel', 'tcp']).default('channel'),
      /** Where the main listens (`tcp`). */
      port: z.int().min(1).max(65_535).default(4433),
      /** How many TSIs share the batch system: their mains listen on `port` and those behind it (`tcp`). */
      count: z.int().min(1).max(8).default(1),
      /** Who the TSI proves to be (`tcp`); absent: plain TCP. */
      tls: z
        .strictObject({
          /** Subject of its certificate, RFC 2253. */
          dn: line.regex(/^[A-Za-z0-9.]+=/, 'must be a distinguished name such as CN=TSI,O=Grid'),
          /** The authority that must have signed it, PEM; absent: the one that the site trusts. */
          ca: z
            .string()
            .max(65_536)
            .regex(
              /^-----BEGIN CERTIFICATE-----[\s\S]+-----END CERTIFICATE-----\s*$/,
              'must be PEM',
            )
            .optional(),
        })
        .optional(),
      /** The account in the image that jobs run as. */
      login: z.string().regex(/^[a-z_][a-z0-9_-]{0,31}$/),
      /** Absolute path in the image below which job directories are made. */
      jobsDirectory: z
        .string()
        .regex(/^\/[^\0\r\n]*$/)
        .max(512),
    }),
    /** How a machine is told which one it is (`kernel`, `qcow2`); absent: by what its format has. */
    contextualisation: Contextualisation.optional(),
    boot: z
      .strictObject({
        /** Appended to the kernel command line (format `kernel`). */
        commandLine: line.optional(),
        /** First process of a container (format `rootfs`). */
        init: z
          .string()
          .regex(/^\/[^\0\r\n]*$/)
          .max(512)
          .optional(),
      })
      .default({}),
  })
  .refine(({ format, tsi }) => format !== 'rootfs' || tsi.transport === 'channel', {
    path: ['tsi', 'transport'],
    error: 'must be channel for the format rootfs: containers have no network',
  })
  .refine(
    ({ format, tsi, requirements: { network = 'none' } }) =>
      network === 'none' || (format !== 'rootfs' && tsi.transport === 'channel'),
    {
      path: ['requirements', 'network'],
      error: 'must not be for the format rootfs, nor with tsi.transport tcp, which has its own',
    },
  )
  .refine(({ format, contextualisation: { nocloud } = {} }) => format !== 'rootfs' || !nocloud, {
    path: ['contextualisation', 'nocloud'],
    error: 'must not be for the format rootfs: containers have no disks',
  })
  .refine(({ tsi, contextualisation: { agent } = {} }) => !agent || tsi.transport === 'channel', {
    path: ['contextualisation', 'agent'],
    error: 'must not be with tsi.transport tcp: our agent is reached over its channel',
  })
  .refine(({ format, display }) => format !== 'rootfs' || display !== true, {
    path: ['display'],
    error: 'must not be for the format rootfs: containers have no screen',
  });
export type ImageMetadata = z.output<typeof ImageMetadata>;

export const imageStates = ['INCOMPLETE', 'PUBLISHED', 'DELETING'] as const;

/** What the repository answers: `GET /rest/images/{id}`. Sizes in bytes, dates as everywhere in REST. */
export const ImageRecord = z.object({
  id: z.uuid(),
  owner: z.string(),
  state: z.enum(imageStates),
  created: z.string(),
  metadata: ImageMetadata,
  parts: z.partialRecord(
    z.enum(partNames),
    z.object({
      sha256: z.string().regex(/^[0-9a-f]{64}$/),
      sizeBytes: z.number(),
      /** Of a disk: what a machine sees; known since it was published. */
      virtualBytes: z.number().optional(),
    }),
  ),
});
export type ImageRecord = z.output<typeof ImageRecord>;

/** What `GET /rest/images` answers; `records` only with `details=true`. */
export const ImageList = z.object({
  images: z.array(z.string()),
  records: z.array(ImageRecord).optional(),
  total: z.number(),
});
export type ImageList = z.output<typeof ImageList>;

/** The longest that `GET /rest/images/changes` waits for something to happen. */
export const longestWaitSeconds = 20;

/** What has become of an image, and who may know: its owner, and all for whom it is or was public. */
export const ImageChange = z.object({
  id: z.uuid(),
  owner: z.string(),
  change: z.enum(['created', 'published', 'changed', 'removed']),
  name: z.string(),
  version: z.string(),
  isPublic: z.boolean(),
  wasPublic: z.boolean(),
  time: z.string(),
});
export type ImageChange = z.output<typeof ImageChange>;

/** What `GET /rest/images/changes` answers; `lost`: what came before is forgotten by now. */
export const ImageChanges = z.object({
  changes: z.array(ImageChange),
  next: z.number(),
  lost: z.boolean(),
});
export type ImageChanges = z.output<typeof ImageChanges>;

/** Paths below the repository's base URL. */
export const imageRoutes = {
  images: '/rest/images',
  changes: '/rest/images/changes',
  image: (id: string) => `/rest/images/${encodeURIComponent(id)}`,
  part: (id: string, part: PartName) => `/rest/images/${encodeURIComponent(id)}/parts/${part}`,
  publish: (id: string) => `/rest/images/${encodeURIComponent(id)}/actions/publish`,
} as const;

/** Where a part lies below the repository's store directory; the content decides the name. */
export function blobPath(sha256: string): string {
  return `blobs/${sha256.slice(0, 2)}/${sha256}`;
}
