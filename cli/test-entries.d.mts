export function groupTests(names: readonly string[]): string[][];
export function writeTestEntries(
  names: readonly string[],
  compiled: string,
  folder: string,
): string[];
