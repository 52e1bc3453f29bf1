import { z } from 'zod';
import type { Amounts } from './quota.js';

const price = z.number().min(0).default(0);

/** What a target system costs while it is there. */
export const PriceConfig = z.strictObject({
  /** As it is shown, `EUR`. */
  currency: z.string().regex(/^[^\0\r\n]{1,16}$/, 'must have 1 to 16 characters, on one line'),
  coreHour: price,
  memoryGiBHour: price,
  diskGiBHour: price,
});
export type Prices = z.output<typeof PriceConfig>;

export type Cost = {
  /** Of its whole life; absent: it lives until it is deleted. */
  readonly total?: Sum & { readonly hours: number };
  readonly perHour: Sum;
};
type Sum = {
  readonly coreHours: number;
  readonly memoryGiBHours: number;
  readonly diskGiBHours: number;
  /** Where the site has prices. */
  readonly price?: number;
};

const mibPerGib = 1024;

/** @param hours how long it is there; absent: until it is deleted */
export function costOf(amounts: Amounts, hours?: number, prices?: Prices): Cost {
  return {
    perHour: sumOf(amounts, 1, prices),
    ...(hours !== undefined && {
      total: { hours: rounded(hours), ...sumOf(amounts, hours, prices) },
    }),
  };
}

function sumOf({ cpus, memoryMiB, diskMiB }: Amounts, hours: number, prices?: Prices): Sum {
  const [coreHours, memoryGiBHours, diskGiBHours] = [
    cpus * hours,
    (memoryMiB / mibPerGib) * hours,
    (diskMiB / mibPerGib) * hours,
  ];
  const sum = prices && {
    price: rounded(
      coreHours * prices.coreHour +
        memoryGiBHours * prices.memoryGiBHour +
        diskGiBHours * prices.diskGiBHour,
    ),
  };
  return {
    coreHours: rounded(coreHours),
    memoryGiBHours: rounded(memoryGiBHours),
    diskGiBHours: rounded(diskGiBHours),
    ...sum,
  };
}

/** Ten thousandths: a cheap hour must not become free. */
function rounded(value: number): number {
  return Math.round(value * 10_000) / 10_000;
}
