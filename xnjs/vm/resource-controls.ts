import type { ImageMetadata, NetworkKind } from '#imagerepo/contract.js';
import type { Asked } from './machine-size.js';
import { VmError } from './state.js';
import type { Driver } from './target-system.js';

const machines = ['qemu', 'kvm'] as const satisfies readonly Driver[];
const all = [...machines, 'lxc'] as const satisfies readonly Driver[];

type ControlRow = {
  /** Drivers of libvirt that have it; with others it is refused by name. */
  readonly drivers: readonly Driver[];
  readonly needs?: 'disk' | 'network';
  readonly min: number;
  readonly max: number;
  /** Of values with a unit: `4M`. */
  readonly unit: 'count' | 'bytes';
  /** Can be taken back: the machine then has what the site allows at most. */
  readonly optional: boolean;
};

const most = Number.MAX_SAFE_INTEGER;
const bytesPerSecond = { min: 4096, max: most, unit: 'bytes', optional: true } as const;
/** libvirt counts a card's in thousands, in 32 bits. */
const bandwidth = { ...bytesPerSecond, max: 1_000 * 0xffff_ffff } as const;
const perSecond = { min: 1, max: most, unit: 'count', optional: true } as const;

/**
 * What a target system may have less of than its machine could use, changeable while it runs. Those of the
 * processor and the hard limit are the host's cgroups; those of the disk are QEMU's own; those of the network
 * are the host's traffic control.
 */
export const controls = {
  /** Weight among those that compete for the host's cores; without: as everybody else's. */
  cpuShares: { drivers: all, min: 2, max: 10_000, unit: 'count', optional: false },
  /** Of one core: 150 is one and a half. The machine's own threads are counted with the guest's. */
  cpuQuotaPercent: { drivers: all, min: 1, max: 100_000, unit: 'count', optional: true },
  /** Of the machine's process on the host, which needs some more than its guest has. */
  memoryHardLimitMiB: { drivers: machines, min: 1, max: most, unit: 'count', optional: true },
  diskReadBytesPerSecond: { drivers: machines, needs: 'disk', ...bytesPerSecond },
  diskWriteBytesPerSecond: { drivers: machines, needs: 'disk', ...bytesPerSecond },
  diskIops: { drivers: machines, needs: 'disk', ...perSecond },
  networkInboundBytesPerSecond: { drivers: machines, needs: 'network', ...bandwidth },
  networkOutboundBytesPerSecond: { drivers: machines, needs: 'network', ...bandwidth },
} as const satisfies Record<string, ControlRow>;

export type ControlName = keyof typeof controls;
export const controlNames = Object.keys(controls) as ControlName[]; // keys of the table above
export type Controls = Readonly<Partial<Record<ControlName, number | undefined>>>;
/** What was asked for; `null` takes it back. */
export type ControlWishes = Readonly<Partial<Record<ControlName, Asked | null>>>;

/** Of the machine that the controls are for. */
export type Controlled = {
  readonly driver: Driver;
  readonly metadata: Pick<ImageMetadata, 'format' | 'tsi'>;
  readonly cpus: number;
  readonly memoryMaxMiB: number;
  readonly network?: NetworkKind | undefined;
  readonly volumes?: readonly unknown[] | undefined;
};

/** What QEMU takes for itself at most: below that the host would kill a machine that is well. */
const machineOverheadMiB = 256;

/**
 * As asked for, else as before, else what the site allows at most.
 * @throws {@link VmError} `BAD_REQUEST` naming the parameter and its range, or why the machine cannot have it
 */
export function chooseControls(
  wishes: ControlWishes,
  before: Controls,
  machine: Controlled,
  site: Controls,
): Controls {
  const chosen: Partial<Record<ControlName, number>> = {};
  for (const name of controlNames) {
    const wish = wishes[name];
    const reason = impossible(name, machine);
    if (wish !== undefined && reason !== undefined)
      throw new VmError('BAD_REQUEST', `${wish?.field ?? `parameters.${name}`}: ${reason}`);
    if (reason !== undefined) continue;
    const range = rangeOf(name, machine, site);
    const value = choose(name, wish, before[name], site[name] === undefined ? undefined : range);
    if (value === undefined) continue;
    if (wish && (value < range.min || value > range.max))
      throw new VmError(
        'BAD_REQUEST',
        `${wish.field}: ${value} is outside ${range.min}-${range.max}, the range of this machine on this site`,
      );
    chosen[name] = value;
  }
  return chosen;
}

function choose(
  name: ControlName,
  wish: Asked | null | undefined,
  before: number | undefined,
  siteRange: { readonly max: number } | undefined,
): number | undefined {
  if (wish) return wish.value;
  if (wish === undefined && before !== undefined) return before;
  if (wish === null && !controls[name].optional && before !== undefined)
    throw new VmError('BAD_REQUEST', `parameters.${name}: cannot be taken back, only changed`);
  return siteRange?.max;
}

function impossible(
  name: ControlName,
  { driver, metadata, network = 'none', volumes = [] }: Controlled,
): string | undefined {
  const row: ControlRow = controls[name];
  if (!row.drivers.includes(driver)) return `the driver ${driver} cannot do it`;
  const hasDisk = metadata.format === 'qcow2' || volumes.length > 0;
  if (row.needs === 'disk' && !hasDisk) return 'its machine has no disk';
  if (row.needs !== 'network' || metadata.tsi.transport === 'tcp') return undefined;
  if (network === 'none') return 'its machine has no network';
  if (network === 'user') return 'the host cannot do it for a network of the kind user';
  return undefined;
}

function rangeOf(
  name: ControlName,
  { cpus, memoryMaxMiB }: Controlled,
  site: Controls,
): { min: number; max: number } {
  const { min, max }: ControlRow = controls[name];
  const own = {
    min: name === 'memoryHardLimitMiB' ? memoryMaxMiB + machineOverheadMiB : min,
    max: name === 'cpuQuotaPercent' ? 100 * cpus : max,
  };
  // a hard limit of the site that no machine could live with does not make it impossible to start
  return { min: own.min, max: Math.max(own.min, Math.min(own.max, site[name] ?? own.max)) };
}
