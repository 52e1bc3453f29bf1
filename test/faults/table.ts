/** What was tried and what became of it, printed when the suite is through. */
export class FaultTable {
  readonly #rows: { readonly fault: string; readonly at: string; readonly jobs: number }[] = [];

  /** A fault that every job has survived: none lost, none run twice, each in its right state. */
  survived(fault: string, at: string, jobs: number): void {
    this.#rows.push({ fault, at, jobs });
  }

  print(): void {
    if (this.#rows.length === 0) return;
    const [a, b] = [Math.max(...this.#rows.map(({ fault }) => fault.length)), 7];
    const lines = this.#rows.map(
      ({ fault, at, jobs }) => `${fault.padEnd(a)} | ${String(jobs).padStart(4)} | ${at}`,
    );
    const head = [`${'fault'.padEnd(a)} | jobs | at`, `${'-'.repeat(a)} | ---- | ${'-'.repeat(b)}`];
    process.stdout.write(['', 'faults survived', ...head, ...lines, ''].join('\n'));
  }
}
