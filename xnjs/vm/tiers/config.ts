import { z } from 'zod';

export const SparesConfig = z
  .strictObject({
    /** Images by id, name or `name:version`, and how many machines of each are kept running. */
    images: z.record(z.string().min(1).max(256), z.int().min(0).max(1_000)).default({}),
    /** By whose right these images are read: the DN of a user that the image repository knows. */
    readAs: z.string().min(1).optional(),
    /** Further images, by what users ask for. */
    demand: z
      .strictObject({
        /** The most spares of one such image; 0: none. */
        max: z.int().min(0).max(100).default(0),
        /** One spare for each so many requests within the time. */
        requests: z.int().positive().default(2),
        withinSeconds: z.number().positive().default(600),
      })
      .prefault({}),
    /** Bounds of all spares together. */
    maxMachines: z.int().min(0).default(4),
    maxMemoryMiB: z.int().min(0).default(4_096),
    /** What the host has free beside the spares, for users. */
    reserveMiB: z.int().min(0).default(1_024),
  })
  .refine(({ images, readAs }) => Object.keys(images).length === 0 || readAs !== undefined, {
    path: ['readAs'],
    error: 'must name a user who may read the images',
  });
export type SparesConfig = z.output<typeof SparesConfig>;

export const WarmConfig = z
  .strictObject({
    /** Of how many images the memory of a booted machine is kept on disk; 0: of none. */
    maxImages: z.int().min(0).default(0),
    /** And of how many at most that take so much disk: each twice the memory of its machine. */
    maxDiskMiB: z.int().min(0).default(65_536),
    /**
     * Images by id, name or `name:version` whose memory is saved as soon as they are published, those first that are
     * named first; beside them those that have spares by configuration.
     */
    images: z.array(z.string().min(1).max(256)).max(1_000).default([]),
    /** By whose right these images are read: the DN of a user that the image repository knows. */
    readAs: z.string().min(1).optional(),
    /** What the host has free beside the machine whose memory is saved, for users. */
    reserveMiB: z.int().min(0).default(1_024),
  })
  .refine(({ images, readAs }) => images.length === 0 || readAs !== undefined, {
    path: ['readAs'],
    error: 'must name a user who may read the images',
  })
  .refine(({ images, maxImages }) => images.length <= maxImages, {
    path: ['maxImages'],
    error: 'must be as many as there are images, or more',
  });
export type WarmConfig = z.output<typeof WarmConfig>;
