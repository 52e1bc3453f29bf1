/** The marks of a start, in their order, with the words for people. */
const marks = [
  ['fetchedMs', 'fetched'],
  ['definedMs', 'defined'],
  ['startedMs', 'started'],
  ['kernelMs', 'kernel'],
  ['userSpaceMs', 'user space'],
  ['agentMs', 'agent'],
  ['readyMs', 'ready'],
] as const;

export type Boot = Partial<Record<(typeof marks)[number][0], number>>;

/** The furthest mark that was reached, for a line that is redrawn while one waits. */
export function lastMark(boot: Boot): string {
  return marks.findLast(([key]) => boot[key] !== undefined)?.[1] ?? 'requested';
}

/**
 * One line per mark: when it was reached, and a bar from the mark before it.
 *
 *     user space   1640 ms  ·········━━━━━━━
 */
export function drawTimeline(boot: Boot, width = 48): string[] {
  const end = Math.max(1, boot.readyMs ?? 0, ...marks.map(([key]) => boot[key] ?? 0));
  const column = (ms: number): number => Math.round((ms / end) * width);
  let previous = 0;
  return marks.flatMap(([key, word]) => {
    const at = boot[key];
    if (at === undefined) return [];
    const bar =
      '·'.repeat(column(previous)) + '━'.repeat(Math.max(1, column(at) - column(previous)));
    previous = Math.max(previous, at);
    return [`${word.padEnd(11)}${String(at).padStart(6)} ms  ${bar}`];
  });
}
