import { readdirSync, readFileSync, statSync } from 'node:fs';

/** One row of the process table, from `/proc/<pid>/stat`. */
export type Process = {
  readonly pid: number;
  readonly name: string;
  /** `R S D T Z …` */
  readonly state: string;
  readonly parent: number;
  readonly session: number;
  /** When it started, in clock ticks since the boot: with `pid` it names a process for good. */
  readonly startTicks: number;
};

export function findProcess(pid: number): Process | undefined {
  const text = readProc(pid, 'stat');
  // the name may hold blanks and parentheses: what follows its last one is regular
  const match = /^\d+ \(([^]*)\) (\S) (\d+) -?\d+ (-?\d+) (?:\S+ ){15}(\d+) /.exec(text);
  if (!match) return undefined;
  const [, name = '', state = '', ...numbers] = match;
  const [parent = 0, session = 0, startTicks = 0] = numbers.map(Number);
  return { pid, name, state, parent, session, startTicks };
}

/** All living processes; what has ended but was not waited for is none. */
export function processes(): Process[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .flatMap((name) => findProcess(Number(name)) ?? [])
    .filter(({ state }) => state !== 'Z' && state !== 'X');
}

export function ownerOf(pid: number): number | undefined {
  try {
    return statSync(`/proc/${pid}`).uid;
  } catch {
    return undefined;
  }
}

/** Names this boot: process numbers and start times mean nothing in another. */
export function bootId(): string {
  return readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
}

function readProc(pid: number, file: string): string {
  try {
    return readFileSync(`/proc/${pid}/${file}`, 'utf8');
  } catch {
    return ''; // it has ended meanwhile
  }
}
