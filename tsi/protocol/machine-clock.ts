import { TsiError } from './error.js';

/**
 * What a machine needs to know that stood still for a while, or is what it was before: `POST /clock` on the agent
 * link, before its jobs are heard of again (ADR 037).
 */
export type MachineClock = {
  /** What time it is, ms since the epoch. */
  readonly timeMs: number;
  /** 64 bytes for the kernel's random generator, base64: else it would give the same again. */
  readonly seed: string;
};

/** @throws {@link TsiError} `TSI_PROTOCOL` naming the field */
export function decodeMachineClock(json: string): MachineClock {
  const { timeMs, seed } = parse(json);
  return {
    timeMs: Number.isSafeInteger(timeMs) && Number(timeMs) > 0 ? Number(timeMs) : refuse('timeMs'),
    seed: typeof seed === 'string' && /^[A-Za-z0-9+/]{86}==$/.test(seed) ? seed : refuse('seed'),
  };
}

function parse(json: string): Record<string, unknown> {
  try {
    return { ...(JSON.parse(json) as object) };
  } catch {
    return refuse('json');
  }
}

function refuse(name: string): never {
  throw new TsiError('TSI_PROTOCOL', `the clock cannot be read: ${name}`, { field: name });
}
