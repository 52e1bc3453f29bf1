import { cpus, loadavg } from 'node:os';

/** A figure, what it is to be measured against, and the goal. */
export type Row = {
  readonly what: string;
  readonly value: string;
  /** The same by other means, in the same run: figures of a machine mean little without it. */
  readonly baseline?: string;
  readonly goal: string;
  readonly met: boolean;
};

export function printMachine(): void {
  const load = loadavg()[0]?.toFixed(2) ?? '?';
  process.stdout.write(`${cpus().length} cores, load ${load}, Node ${process.versions.node}\n`);
}

export function print({ what, value, baseline = '', goal, met }: Row): void {
  process.stdout.write(
    `${met ? 'met   ' : 'MISSED'}  ${what.padEnd(46)} ${value.padEnd(26)} goal ${goal.padEnd(14)} ${baseline}\n`,
  );
}

/** @param share 0.5 is the median */
export function quantile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? NaN;
}

/** Runs `work` for each number below `count`, `width` at a time. @returns ms */
export async function inFlight(
  count: number,
  width: number,
  work: (at: number) => Promise<unknown>,
): Promise<number> {
  const startedMs = performance.now();
  let next = 0;
  await Promise.all(
    Array.from({ length: width }, async () => {
      while (next < count) await work(next++);
    }),
  );
  return performance.now() - startedMs;
}
