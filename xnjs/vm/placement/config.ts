import type { z } from 'zod';
import { PriceConfig } from './cost.js';
import { flavourConfig } from './flavours.js';
import type { PlannerOptions } from './planner.js';
import { QuotaConfig } from './quota.js';

/** Members of `targetSystems`: who may have how much. */
export const placementConfig = {
  ...flavourConfig,
  quota: QuotaConfig.prefault({}),
  /** What is shown to users as the price of a target system. */
  prices: PriceConfig.optional(),
};
export type PlacementConfig = z.output<z.ZodObject<typeof placementConfig>>;

export function placementOf({
  flavours,
  defaultFlavour,
  quota,
  prices,
}: PlacementConfig): Pick<PlannerOptions, 'flavours' | 'quota' | 'prices'> {
  return { flavours: { flavours, defaultFlavour }, quota, prices };
}
