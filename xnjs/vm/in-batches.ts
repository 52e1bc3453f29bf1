/**
 * So many machines at a time: one answer of the hypervisor for all would keep this process from anything else
 * while it is read, and beyond some ten thousand be longer than a message may be.
 */
const batchSize = 100;

export async function inBatches<T, R>(
  all: readonly T[],
  work: (batch: readonly T[]) => Promise<readonly R[]>,
): Promise<R[]> {
  const results: R[] = [];
  for (let first = 0; first < all.length; first += batchSize)
    results.push(...(await work(all.slice(first, first + batchSize))));
  return results;
}
