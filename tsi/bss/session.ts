import { setTimeout as sleep } from 'node:timers/promises';
import { TsiError } from '../protocol/error.js';
import { ownerOf, processes, type Process } from './processes.js';

/** The processes of a job: those of the session that its shell leads. */
export type Session = { readonly pid: number; readonly startTicks: number; readonly uid: number };

/** How long a process may take to obey a signal before it is killed. */
export const graceSeconds = 5;
const pollMs = 50;
const rounds = (graceSeconds * 1_000) / pollMs;
/** A shell's child may lose a signal between fork and exec, and its parent to the same: told once more. */
const repeatRound = 6;

function members({ pid: leader, startTicks: since, uid }: Session): Process[] {
  return processes().filter(
    ({ session, startTicks, pid }) =>
      session === leader && startTicks >= since && ownerOf(pid) === uid,
  );
}

/** SIGTERM, and after the grace SIGKILL. Resolves when no process is left. */
export async function endSession(session: Session): Promise<void> {
  const told = new Set<number>();
  for (let round = 0; round < 2 * rounds; round += 1) {
    const living = members(session);
    if (living.length === 0) return;
    const pids = new Set(living.map(({ pid }) => pid));
    for (const { pid, parent } of living) {
      // once, and to no helper of a handler; but to what was started while we looked
      const orphan = !pids.has(parent);
      const due = round === 0 || parent === session.pid || orphan;
      if (round >= rounds) kill(pid, 'SIGKILL');
      else if (due && (!told.has(pid) || (orphan && round === repeatRound))) {
        kill(pid, 'SIGTERM');
        kill(pid, 'SIGCONT'); // one that is held would not hear of it
      }
      if (due) told.add(pid);
    }
    await sleep(pollMs);
  }
  throw new TsiError('TSI_FAILED', 'processes of the job do not end', { session: session.pid });
}

/** SIGSTOP, which cannot be caught. */
export function holdSession(session: Session): Promise<void> {
  return signalUntil(session, 'SIGSTOP', (state) => state === 'T' || state === 't');
}

export function resumeSession(session: Session): Promise<void> {
  return signalUntil(session, 'SIGCONT', (state) => state !== 'T');
}

/** Until all are as wanted: a process may start another while we look. */
async function signalUntil(
  session: Session,
  signal: NodeJS.Signals,
  settled: (state: string) => boolean,
): Promise<void> {
  for (let round = 0; round < rounds; round += 1) {
    const others = members(session).filter(({ state }) => !settled(state));
    if (others.length === 0) return;
    for (const { pid } of others) kill(pid, signal);
    await sleep(pollMs / 10);
  }
  throw new TsiError('TSI_FAILED', `processes of the job do not obey ${signal}`, {
    session: session.pid,
  });
}

function kill(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch {
    // it has ended meanwhile, or is not ours to end; the caller looks again
  }
}
