import { z } from 'zod';
import { networkKinds, type NetworkKind } from '#imagerepo/contract.js';
import { GridError } from '#kernel/errors.js';
import { controlNames, controls, type ControlName, type Controls } from '../resource-controls.js';
import { isMeant, whom, type Requester } from './requester.js';

/** What of a target system has a range. */
export const sizeNames = ['cpus', 'memoryMiB', 'diskMiB', 'lifetimeSeconds'] as const;
export type SizeName = (typeof sizeNames)[number];

const amount = z.int().positive();
/** `4`: that, and no more may be asked for. */
const range = z
  .union([amount, z.strictObject({ min: amount.default(1), default: amount, max: amount })])
  .transform((given) =>
    typeof given === 'number' ? { min: 1, default: given, max: given } : given,
  )
  .refine((r) => r.min <= r.default && r.default <= r.max, 'must have min <= default <= max');

const sizes = (each: z.ZodType) =>
  Object.fromEntries(sizeNames.map((name) => [name, each.optional()]));
const controlLimits = Object.fromEntries(
  controlNames.map((name) => [name, z.int().min(controls[name].min).optional()]),
) as Record<ControlName, z.ZodOptional<z.ZodInt>>; // as: one for each name

const Flavour = z.strictObject({
  description: z.string().max(256).default(''),
  /** Who may have it. */
  ...whom,
  ...(sizes(range) as Record<SizeName, z.ZodOptional<typeof range>>), // as: one for each name
  /** The most of each resource control, and what one has that asks for none. */
  ...controlLimits,
  /** What of a network its machines may have, beside `none`; absent: what the site offers. */
  networks: z.array(z.enum(networkKinds)).optional(),
  /** Its machines have cores of their own; `false`: and cannot; absent: if they are asked for. */
  pinned: z.boolean().optional(),
  /** Other maxima for some; the largest counts of those that are meant for a user. */
  limits: z
    .array(
      z.strictObject({
        ...whom,
        ...(sizes(amount) as Record<SizeName, z.ZodOptional<typeof amount>>), // as above
      }),
    )
    .max(100)
    .default([]),
});
type Flavour = z.output<typeof Flavour>;

const flavourName = z.string().regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/, 'must be a word');

/** Members of `targetSystems`: sizes by name. */
export const flavourConfig = {
  flavours: z.record(flavourName, Flavour).default({}),
  /** Of those who name none; absent: the limits of the site alone hold for them. */
  defaultFlavour: flavourName.optional(),
};
export type FlavourConfig = z.output<z.ZodObject<typeof flavourConfig>>;

export type Range = {
  readonly min?: number | undefined;
  /** Absent: the image says. */
  readonly default?: number | undefined;
  /** Absent: without limit. */
  readonly max?: number | undefined;
};
/** What one target system may have. */
export type Bounds = Readonly<Record<SizeName, Range>> & {
  readonly flavour?: string;
  /** The most of each, and what one has that asks for none. */
  readonly controls: Controls;
  /** Beside `none`; absent: what the site offers. */
  readonly networks?: readonly NetworkKind[];
  /** Cores of their own: theirs unless they ask otherwise, or not to be had; absent: if they ask. */
  readonly pinned?: boolean;
};

/** The most that any target system of the site may have. */
export type SiteLimits = Controls & {
  readonly cpus: number;
  readonly memoryMiB: number;
  /** Absent: what the image's disk has. */
  readonly diskMiB?: number | undefined;
  readonly lifetimeSeconds?: number | undefined;
  readonly maxLifetimeSeconds?: number | undefined;
};

export type OfferedFlavour = {
  readonly name: string;
  readonly description: string;
  readonly isDefault: boolean;
  readonly bounds: Bounds;
};

/** Sizes of target systems by name, and who may have how much of each. */
export class Flavours {
  readonly #config: FlavourConfig;
  readonly #site: Bounds;

  constructor(config: FlavourConfig, limits: SiteLimits) {
    this.#config = config;
    this.#site = siteBounds(limits);
  }

  /** Those that the user may have, with what he may have of each. */
  offered(requester: Requester): OfferedFlavour[] {
    return Object.entries(this.#config.flavours)
      .filter(([, flavour]) => isMeant(flavour, requester))
      .map(([name, flavour]) => ({
        name,
        description: flavour.description,
        isDefault: name === this.#config.defaultFlavour,
        bounds: boundsOf(name, flavour, this.#site, requester),
      }));
  }

  /**
   * @param name absent: the default, or the site's limits alone
   * @throws `BAD_REQUEST` there is none of that name; `FORBIDDEN` it is for others
   */
  boundsFor(requester: Requester, name = this.#config.defaultFlavour): Bounds {
    if (name === undefined) return this.#site;
    const { flavours } = this.#config;
    const flavour = Object.hasOwn(flavours, name) ? flavours[name] : undefined;
    if (flavour && isMeant(flavour, requester))
      return boundsOf(name, flavour, this.#site, requester);
    const mine = this.offered(requester).map((each) => each.name);
    const yours = mine.length === 0 ? 'there is none for you' : `yours are ${mine.join(', ')}`;
    throw flavour
      ? new GridError('FORBIDDEN', `flavour: ${name} is for others; ${yours}`)
      : new GridError('BAD_REQUEST', `flavour: there is no ${JSON.stringify(name)}; ${yours}`);
  }
}

function siteBounds(limits: SiteLimits): Bounds {
  const { cpus, memoryMiB, diskMiB, lifetimeSeconds, maxLifetimeSeconds } = limits;
  return {
    cpus: { max: cpus },
    memoryMiB: { max: memoryMiB },
    diskMiB: { max: diskMiB },
    lifetimeSeconds: { default: lifetimeSeconds ?? maxLifetimeSeconds, max: maxLifetimeSeconds },
    controls: pickControls(limits, {}),
  };
}

function boundsOf(name: string, flavour: Flavour, site: Bounds, requester: Requester): Bounds {
  const mine = flavour.limits.filter((each) => isMeant(each, requester));
  const rangeOf = (size: SizeName): Range => {
    const own = flavour[size];
    const special = mine.flatMap((each) => each[size] ?? []);
    const most = special.length > 0 ? Math.max(...special) : own?.max;
    const max = lesser(most, site[size].max);
    return {
      min: atMost(own?.min, max),
      default: atMost(own?.default ?? site[size].default, max),
      max,
    };
  };
  return {
    flavour: name,
    cpus: rangeOf('cpus'),
    memoryMiB: rangeOf('memoryMiB'),
    diskMiB: rangeOf('diskMiB'),
    lifetimeSeconds: rangeOf('lifetimeSeconds'),
    controls: pickControls(flavour, site.controls),
    ...(flavour.networks && { networks: flavour.networks }),
    ...(flavour.pinned !== undefined && { pinned: flavour.pinned }),
  };
}

function atMost(value: number | undefined, max = Infinity): number | undefined {
  return value === undefined ? undefined : Math.min(value, max);
}

/** Of two limits, of which each may be missing. */
function lesser(a: number | undefined, b: number | undefined): number | undefined {
  return a === undefined || b === undefined ? (a ?? b) : Math.min(a, b);
}

function pickControls(own: Controls, site: Controls): Controls {
  return Object.fromEntries(
    controlNames.flatMap((name) => {
      const value = lesser(own[name], site[name]);
      return value === undefined ? [] : [[name, value]];
    }),
  );
}

/** What a configuration promises that the site's own limits forbid. */
export function flavourFaults(
  { flavours, defaultFlavour }: FlavourConfig,
  limits: SiteLimits,
): { path: string[]; message: string }[] {
  const most = siteBounds(limits);
  const faults = Object.entries(flavours).flatMap(([name, flavour]) =>
    sizeNames.flatMap((size) => {
      const largest = Math.max(
        flavour[size]?.max ?? 0,
        ...flavour.limits.map((each) => each[size] ?? 0),
      );
      const { max } = most[size];
      if (max === undefined || largest <= max) return [];
      const message = `${largest} is above ${max}, the limit of this site`;
      return [{ path: ['flavours', name, size], message }];
    }),
  );
  if (defaultFlavour !== undefined && !Object.hasOwn(flavours, defaultFlavour))
    faults.push({ path: ['defaultFlavour'], message: `there is no flavour ${defaultFlavour}` });
  return faults;
}
