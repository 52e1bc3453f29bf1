import { TsiError } from './error.js';

export const bssStates = ['QUEUED', 'RUNNING', 'SUSPENDED', 'COMPLETED', 'UNKNOWN'] as const;
export type BssState = (typeof bssStates)[number];
export type BssEntry = {
  readonly state: BssState;
  readonly queue?: string;
  readonly rawState?: string;
};

/** `#TSI_GETSTATUSLISTING` (§2.11): a blank, id, state, queue and the batch system's own word. */
export function encodeStatus(jobs: Iterable<readonly [string, BssEntry]>): string {
  let text = 'QSTAT\n';
  for (const [id, { state, queue, rawState }] of jobs)
    text += ` ${[id, state, queue, queue && rawState].filter(Boolean).join(' ')}\n`;
  return text;
}

/** Lines that cannot be read fail the whole: a job left out would count as ended. */
export function decodeStatus(payload: string): Map<string, BssEntry> {
  const [title, ...lines] = payload.split('\n');
  if (title?.trim().toUpperCase() !== 'QSTAT') malformed(title);
  const jobs = new Map<string, BssEntry>();
  for (const line of lines) {
    if (line.trim() === '') continue;
    const [id, word, queue, rawState] = line.trim().split(/\s+/);
    const state = bssStates.find((known) => known === word) ?? malformed(line);
    if (!id) malformed(line);
    jobs.set(id, { state, ...(queue && { queue }), ...(rawState && { rawState }) });
  }
  return jobs;
}

export type Space = {
  readonly totalBytes: number;
  readonly freeBytes: number;
  readonly userBytes: number;
};

/** `#TSI_DF` (§2.7); -1 is unknown. */
export function encodeSpace({ totalBytes, freeBytes, userBytes }: Space): string {
  return `START_DF\nTOTAL ${totalBytes}\nFREE ${freeBytes}\nUSER ${userBytes}\nEND_DF`;
}

export function decodeSpace(payload: string): Space {
  const amount = (name: string): number =>
    Number(new RegExp(`^${name} (-?\\d{1,20})$`, 'm').exec(payload)?.[1] ?? malformed(payload));
  return {
    totalBytes: amount('TOTAL'),
    freeBytes: amount('FREE'),
    userBytes: amount('USER'),
  };
}

function malformed(line: string | undefined): never {
  throw new TsiError('TSI_PROTOCOL', 'the TSI sends a status that cannot be read', {
    line: line?.slice(0, 200),
  });
}
