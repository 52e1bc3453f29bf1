import type { Command } from 'commander';

/** One row of a listing; what is absent is shown as `-`. */
export type Row = Readonly<Record<string, string | number | undefined>>;

/** Writes a listing: columns for people, JSON for programs. */
export function printRows(rows: readonly Row[], columns: readonly string[], asJson: boolean): void {
  if (asJson) {
    printJson(rows);
    return;
  }
  const cells = [
    columns.map((name) => name.toUpperCase()),
    ...rows.map((row) => columns.map((name) => String(row[name] ?? '-'))),
  ];
  const widths = columns.map((_, at) => Math.max(...cells.map((line) => line[at]?.length ?? 0)));
  for (const line of cells)
    process.stdout.write(
      `${line
        .map((cell, at) => cell.padEnd(widths[at] ?? 0))
        .join('  ')
        .trimEnd()}\n`,
    );
}

/** One word for people, an object for programs. */
export function printResult(result: object, word: string, asJson: boolean): void {
  if (asJson) printJson(result);
  else process.stdout.write(`${word}\n`);
}

export function printJson(value: unknown): void {
  process.stdout.write(`${JSON.stringify(value, undefined, 2)}\n`);
}

/** What happens meanwhile; on standard error, so that it never mixes with results. */
export function tell(text: string): void {
  process.stderr.write(`${text}\n`);
}

/** Whether results are for programs. */
export function isJson(command: Command): boolean {
  return command.optsWithGlobals<{ json?: boolean }>().json ?? false;
}
