import { randomUUID } from 'node:crypto';
import { userInfo } from 'node:os';
import { TsiError } from '../protocol/error.js';
import type { MakeReservation } from '../protocol/commands.js';
import type { Reservation } from '../protocol/information.js';
import { cLocale, words, type Outcome } from './batch-commands.js';
import type { Owner, Reservations } from './bss.js';
import type { SlurmCommands } from './slurm-commands.js';
import { isNoReservation, parseReservation, type SlurmReservation } from './slurm-output.js';

/** Slurm's times have no zone: the programs are told to be in this one. */
const environment = [...cLocale, 'TZ=UTC'];
const defaultMinutes = 60;

/**
 * Slurm's reservations. Only its operators may make them, so the agent does, for its user alone: the
 * reservation says whose it is, and another's is as good as none.
 */
export class SlurmReservations implements Reservations {
  readonly #commands: SlurmCommands;

  constructor(commands: SlurmCommands) {
    this.#commands = commands;
  }

  /** Made once for each id, whatever was lost of a former answer. */
  async make(owner: Owner, request: MakeReservation): Promise<string> {
    const name = `vsite-${request.reservationId ?? randomUUID()}`;
    const made = (await this.#find(owner, name)) ?? (await this.#create(name, owner, request));
    const { nodes = 1 } = request;
    if (made.nodes >= nodes) return name;
    // seen with Slurm 22: fewer nodes than were asked for, without a word
    await this.cancel(owner, name);
    const text = `Slurm has reservations of ${made.nodes} nodes there, not of ${nodes}`;
    throw new TsiError('TSI_FAILED', text);
  }

  async #create(name: string, owner: Owner, request: MakeReservation): Promise<SlurmReservation> {
    const outcome = await this.#run('reserve', ...optionsOf(name, owner.login, request));
    const made = await this.#find(owner, name);
    if (made) return made;
    throw new TsiError('TSI_FAILED', words(outcome));
  }

  async query(owner: Owner, reference: string): Promise<Reservation> {
    const found = await this.#find(owner, reference);
    // Slurm forgets a reservation when it is over
    if (!found) return { state: 'UNKNOWN', text: 'Slurm has no such reservation, or no more' };
    const { start, active, text } = found;
    return { state: active ? 'ACTIVE' : 'WAITING', start, text };
  }

  async cancel(owner: Owner, reference: string): Promise<void> {
    if (!(await this.#find(owner, reference))) return;
    const outcome = await this.#run('cancel_reservation', `ReservationName=${reference}`);
    if (outcome.status !== 0 && !isNoReservation(words(outcome)))
      throw new TsiError('TSI_FAILED', words(outcome));
  }

  async #find(owner: Owner, reference: string): Promise<SlurmReservation | undefined> {
    if (!/^[\w.-]{1,128}$/.test(reference) || reference.startsWith('-')) return undefined;
    const outcome = await this.#run('show_reservation', reference);
    if (outcome.status === 0) {
      const found = parseReservation(outcome.stdout);
      return found?.users.includes(owner.login) ? found : undefined;
    }
    if (isNoReservation(words(outcome))) return undefined;
    throw new TsiError('TSI_FAILED', words(outcome));
  }

  #run(
    name: 'reserve' | 'show_reservation' | 'cancel_reservation',
    ...args: readonly string[]
  ): Promise<Outcome> {
    return this.#commands.run(self(), this.#commands.line(name, args, environment));
  }
}

/** Each is one argument, `name=value`, of which Slurm splits only the lists at commas: refused in values. */
function optionsOf(name: string, login: string, request: MakeReservation): string[] {
  const { nodes, totalProcessors, processorsPerNode, wallTime, queue, start } = request;
  const cores = totalProcessors ?? (nodes === undefined ? processorsPerNode : undefined);
  const size =
    nodes === undefined && cores !== undefined ? `CoreCnt=${cores}` : `NodeCnt=${nodes ?? 1}`;
  return [
    `ReservationName=${name}`,
    `Users=${login}`,
    `StartTime=${slurmTime(start)}`,
    `Duration=${wallTime === undefined ? defaultMinutes : Math.max(1, Math.ceil(wallTime / 60))}`,
    size,
    ...(queue === undefined ? [] : [`PartitionName=${checkWord('#TSI_QUEUE', queue)}`]),
  ];
}

/** `2026-06-18T02:00:00+0200` as `2026-06-18T00:00:00`. */
function slurmTime(start: string): string {
  const ms = Date.parse(start.replace(/([+-]\d{2})(\d{2})$/, '$1:$2'));
  if (!Number.isFinite(ms))
    throw new TsiError('TSI_FAILED', `#TSI_STARTTIME: ${start} is no time with a zone`);
  return new Date(ms).toISOString().slice(0, 19);
}

function checkWord(header: string, value: string): string {
  if (/^[\w.-]{1,128}$/.test(value)) return value;
  throw new TsiError('TSI_FAILED', `${header}: "${value}" is no name`);
}

function self(): Owner {
  const { username, uid, gid, homedir } = userInfo();
  return { login: username, uid, gid, groups: [gid], home: homedir };
}
