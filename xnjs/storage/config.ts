import { z } from 'zod';

/** No hyphen: the storages of target systems are called `<target system>-<name>`. */
const name = z
  .string()
  .regex(/^[A-Za-z]\w{0,39}$/, 'must be a word')
  .refine((text) => !['HOME', 'WORK', 'uspace'].includes(text), 'is the name of a storage already');
const umask = z.string().regex(/^0?[0-7]{1,3}$/, 'must be octal');
const description = z.string().max(256);

const onHost = {
  /** A directory of this host: files outlive every target system and need none. */
  on: z.literal('host'),
  /** Absolute; each user or storage has a directory of its own in it. One server to a directory. */
  path: z.string().regex(/^\/[^\0\r\n]+$/, 'must be an absolute path'),
  /** For each user, or each storage that a factory makes. */
  quotaMiB: z.int().positive().optional(),
  description: description.default('Files on the server'),
  umask: umask.default('077'),
};
const onTarget = {
  /** A directory of a target system, with the rights of the account there. */
  on: z.literal('target'),
  /** Absolute, or with variables of the account there: `/mnt/scratch`, `$HOME/data`. */
  path: z.string().regex(/^[/$][^\0\r\n]+$/, 'must be an absolute path or begin with a variable'),
  description: description.default('Filesystem'),
  umask: umask.default('077'),
};
const shared = z.discriminatedUnion('on', [
  z.strictObject(onHost),
  z.strictObject({
    ...onTarget,
    /** Names of the images whose target systems have it; absent: all. */
    images: z.array(z.string()).optional(),
  }),
]);

const factory = {
  /** The most, and the default; absent: until its owner deletes it. */
  maxLifetimeSeconds: z.int().positive().optional(),
};
const storageType = z.discriminatedUnion('on', [
  z.strictObject({
    ...onHost,
    ...factory,
    /** Whether the directory goes with its storage. */
    cleanup: z.boolean().default(true),
  }),
  z.strictObject({
    ...onTarget,
    ...factory,
    cleanup: z.boolean().default(false),
    /** Whether users may name a directory; such a one is never removed. */
    allowUserPath: z.boolean().default(true),
  }),
]);

/** Storages beside those that every target system has. */
export const StoragesConfig = z.strictObject({
  shared: z.record(name, shared).default({}),
  /** Types of storages that users may make. `DEFAULT` is what they get if they name none. */
  factories: z.record(name, storageType).prefault({
    DEFAULT: { on: 'target', path: '$HOME/storages', description: 'In a target system' },
  }),
  perUser: z.int().positive().default(32),
  reaperIntervalMs: z.int().min(10).default(5_000),
});
export type StoragesConfig = z.output<typeof StoragesConfig>;
export type SharedStorage = z.output<typeof shared>;
export type StorageType = z.output<typeof storageType>;
