import { z } from 'zod';
import { describeIssues } from '#kernel/config.js';
import { GridError } from '#kernel/errors.js';
import type { StorageType } from './config.js';
import { isUsable } from '../vm/state.js';
import type { CreatedStorage } from './storage.js';
import type { StorageTargets } from './storages-options.js';

export type NewStorage = {
  readonly ownerDn: string;
  readonly type: string;
  readonly name?: string | undefined;
  readonly tags?: readonly string[];
  readonly terminationMs?: number | undefined;
  /** As sent. */
  readonly parameters: Readonly<Record<string, unknown>>;
};

const flag = z.union([z.boolean(), z.stringbool()], 'must be true or false').optional();
const common = {
  description: z.string().max(256).optional(),
  umask: z
    .string()
    .regex(/^0?[0-7]{1,3}$/, 'must be octal')
    .optional(),
  disableMetadata: flag,
  /** Sent by UCC's users; there is no data-triggered processing to be enabled. */
  enableTrigger: flag.refine((on) => on !== true, 'is not supported'),
};
const longestPath = 1_024;
const targetSystem = z.string().max(64).optional();
const path = z
  .string()
  .max(longestPath)
  .regex(/^[/$][^\0\r\n]*$/, 'must be an absolute path or begin with a variable such as $HOME')
  .optional();
const onHost = z.strictObject(common);
const onTarget = z.strictObject({ ...common, targetSystem, path });

/** What users are told of a type's parameters (unicore-rest 3.9). */
export function parametersOf(type: StorageType): Readonly<Record<string, string>> {
  return {
    description: 'text',
    umask: 'octal, such as 077',
    disableMetadata: 'true: no metadata and no search',
    ...(type.on === 'target' && {
      targetSystem: 'id of one of yours; else the newest that is ready',
    }),
    ...(type.on === 'target' &&
      type.allowUserPath && { path: 'directory to show, perhaps with $HOME; else a new one' }),
  };
}

/**
 * The record of a storage that a user wishes for.
 * @throws `BAD_REQUEST` naming the parameter and the reason
 */
export function planStorage(
  wish: NewStorage,
  {
    id,
    types,
    targets,
    nowMs,
  }: {
    readonly id: string;
    readonly types: Readonly<Record<string, StorageType>>;
    readonly targets: StorageTargets;
    readonly nowMs: number;
  },
): CreatedStorage {
  const type = Object.hasOwn(types, wish.type) ? types[wish.type] : undefined;
  if (!type)
    throw new GridError(
      'BAD_REQUEST',
      `type: "${wish.type}" is none of ${Object.keys(types).join(', ')}`,
    );
  const {
    description = wish.name ?? type.description,
    umask = type.umask,
    ...parameters
  } = parse<z.output<typeof onTarget>>(type.on === 'host' ? onHost : onTarget, wish.parameters);
  const userPath = type.on === 'target' ? chosenPath(type, parameters.path) : undefined;
  return {
    id,
    ownerDn: wish.ownerDn,
    type: wish.type,
    place:
      type.on === 'host'
        ? { on: 'host', base: type.path, quotaMiB: type.quotaMiB }
        : {
            on: 'target',
            targetId: chooseTarget(targets, wish.ownerDn, parameters.targetSystem),
            path: userPath ?? `${type.path.replace(/\/+$/, '')}/${id}`,
          },
    cleanup: type.cleanup && userPath === undefined,
    metadata: parameters.disableMetadata !== true,
    state: 'INITIALIZING',
    reason: 'requested',
    settings: { description, umask, tags: wish.tags ?? [] },
    createdMs: nowMs,
    terminationMs: terminationOf(type, wish.terminationMs, nowMs),
  };
}

function parse<T>(schema: z.ZodType<T>, parameters: NewStorage['parameters']): T {
  const parsed = schema.safeParse(parameters);
  if (parsed.success) return parsed.data;
  throw new GridError('BAD_REQUEST', `parameters: ${describeIssues(parsed.error)}`);
}

function chosenPath(
  { allowUserPath }: Extract<StorageType, { on: 'target' }>,
  path: string | undefined,
): string | undefined {
  if (path === undefined || allowUserPath) return path;
  throw new GridError('BAD_REQUEST', 'parameters: path: is not for users to choose here');
}

/** What another user owns is unknown. */
function chooseTarget(
  targets: StorageTargets,
  ownerDn: string,
  wanted: string | undefined,
): string {
  const mine = targets.list({ ownerDn });
  const chosen = wanted === undefined ? mine.find(isUsable) : mine.find(({ id }) => id === wanted);
  if (chosen && targets.find(chosen.id)) return chosen.id;
  throw new GridError(
    'BAD_REQUEST',
    wanted === undefined
      ? 'parameters: targetSystem: there is none of yours that is ready'
      : `parameters: targetSystem: you have no target system ${wanted}`,
  );
}

function terminationOf(
  { maxLifetimeSeconds }: StorageType,
  wanted: number | undefined,
  nowMs: number,
): number | undefined {
  if (maxLifetimeSeconds === undefined) return wanted;
  const latest = nowMs + maxLifetimeSeconds * 1_000;
  if ((wanted ?? latest) <= latest) return wanted ?? latest;
  throw new GridError(
    'BAD_REQUEST',
    `terminationTime: a storage of this type lives ${maxLifetimeSeconds} s at most`,
  );
}
