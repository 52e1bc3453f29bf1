/**
 * So many machines at a time: one answer of the hypervisor for all would keep this process from anything else
 * while it is read, and beyond some ten thousand be longer than a message may be.
 */
const batchSize = 40;

export function batchesOf<T>(all: readonly T[], size = batchSize): T[][] {
  const batches: T[][] = [];
  for (let first = 0; first < all.length; first += size)
    batches.push(all.slice(first, first + size));
  return batches;
}

export async function inBatches<T, R>(
  all: readonly T[],
  work: (batch: readonly T[]) => Promise<readonly R[]>,
): Promise<R[]> {
  const results: R[] = [];
  for (const batch of batchesOf(all)) results.push(...(await work(batch)));
  return results;
}
