import type { MachineSpec } from '../target-system.js';

/** Without whose it is. */
export function specOf({ id, image, parameters, driver, host }: MachineSpec): MachineSpec {
  return { id, image, parameters, driver, host };
}

export function isSameImage(a: MachineSpec['image'], b: MachineSpec['image']): boolean {
  return a.id === b.id && JSON.stringify(a.parts) === JSON.stringify(b.parts);
}

/** What of the machine itself would have to be another one; `undefined`: it fits, or can be changed. */
export function differenceFrom(
  there: Pick<MachineSpec, 'parameters'>,
  { parameters }: Pick<MachineSpec, 'parameters'>,
): string | undefined {
  if (parameters.pinned) return 'cores of its own are no part';
  const names = ['cpus', 'memoryMiB', 'memoryMaxMiB', 'diskMiB', 'network'] as const;
  const other = names.find((name) => there.parameters[name] !== parameters[name]);
  if (other === undefined) return undefined;
  const usual = other === 'network' ? 'none' : there.parameters.memoryMiB;
  const value = there.parameters[other] ?? usual;
  return `${other} is not ${value}, that`;
}
