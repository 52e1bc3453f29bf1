import { TsiError } from './error.js';

/**
 * Who a machine is from now on: `POST /identity` on the agent link, before a user has it. For machines that
 * ran before they were anybody's (ADR 035).
 */
export type MachineIdentity = {
  readonly hostName: string;
  /** 32 hexadecimal digits, as in `/etc/machine-id`. */
  readonly machineId: string;
  /** 64 bytes for the kernel's random generator, base64. */
  readonly seed: string;
  /** What time it is, ms since the epoch. */
  readonly timeMs: number;
  /** Its memory is a copy of another machine's: what its random generator has in store is too. */
  readonly isCopy: boolean;
  /** The real one follows: what would make it quicker is kept. Absent from earlier servers. */
  readonly isRehearsal?: boolean;
};

const patterns = {
  hostName: /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/,
  machineId: /^[0-9a-f]{32}$/,
  seed: /^[A-Za-z0-9+/]{86}==$/,
} as const;

/** @throws {@link TsiError} `TSI_PROTOCOL` naming the field */
export function decodeMachineIdentity(json: string): MachineIdentity {
  const raw = parse(json);
  const text = (name: keyof typeof patterns): string => {
    const value = raw[name];
    return typeof value === 'string' && patterns[name].test(value) ? value : refuse(name);
  };
  const { timeMs, isCopy, isRehearsal = false } = raw;
  return {
    hostName: text('hostName'),
    machineId: text('machineId'),
    seed: text('seed'),
    timeMs: Number.isSafeInteger(timeMs) && Number(timeMs) > 0 ? Number(timeMs) : refuse('timeMs'),
    isCopy: typeof isCopy === 'boolean' ? isCopy : refuse('isCopy'),
    isRehearsal: typeof isRehearsal === 'boolean' ? isRehearsal : refuse('isRehearsal'),
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
  throw new TsiError('TSI_PROTOCOL', `the identity cannot be read: ${name}`, { field: name });
}
