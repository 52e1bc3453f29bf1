import { LinkMessage } from './link-message.js';

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
} as const;

/** @param json or what was read from it @throws `TSI_PROTOCOL` naming the field */
export function decodeMachineIdentity(json: unknown): MachineIdentity {
  const message = new LinkMessage('identity', json);
  return {
    hostName: message.text('hostName', patterns.hostName),
    machineId: message.text('machineId', patterns.machineId),
    seed: message.seed('seed'),
    timeMs: message.time('timeMs'),
    isCopy: message.flag('isCopy'),
    isRehearsal: message.flag('isRehearsal', false),
  };
}
