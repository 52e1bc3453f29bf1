/**
 * Compares what a ping answers as dotted numbers; missing ones count as lower, and a version with anything
 * else in it is older than everything (§2.2).
 */
export function isAtLeast(version: string, wanted: string): boolean {
  if (!/^\d{1,9}(\.\d{1,9})*$/.test(version)) return false;
  const have = version.split('.').map(Number);
  const want = wanted.split('.').map(Number);
  for (let at = 0; at < want.length; at += 1) {
    const difference = (have[at] ?? -1) - (want[at] ?? 0);
    if (difference !== 0) return difference > 0;
  }
  return true;
}
