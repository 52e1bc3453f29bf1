import { LinkMessage } from './link-message.js';

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

/** @throws `TSI_PROTOCOL` naming the field */
export function decodeMachineClock(json: string): MachineClock {
  const message = new LinkMessage('clock', json);
  return { timeMs: message.time('timeMs'), seed: message.seed('seed') };
}
