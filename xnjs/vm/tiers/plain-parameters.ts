import { GridError } from '#kernel/errors.js';
import { chooseParameters } from '../parameters.js';
import type { Flavours } from '../placement/flavours.js';
import { plainUser } from '../placement/requester.js';
import type { MachineSpec } from '../target-system.js';

/**
 * Of a machine that is made for nobody: what a user gets who asks for nothing more than its image.
 * @returns `undefined`: plain users cannot have one, as where it needs more than their flavour has
 */
export function plainParameters(
  { image, driver }: Pick<MachineSpec, 'image' | 'driver'>,
  flavours: Flavours,
): MachineSpec['parameters'] | undefined {
  try {
    return chooseParameters({}, image, driver, flavours.boundsFor(plainUser));
  } catch (error) {
    if (error instanceof GridError) return undefined;
    throw error;
  }
}
