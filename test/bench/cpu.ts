import { readdirSync, readFileSync } from 'node:fs';

/** CPU time of a process, its threads and its children that have ended, from `/proc`: in ticks of 10 ms. */
export function cpuMs(pid: number): number {
  const text = readFileSync(`/proc/${pid}/stat`, 'utf8');
  const [user = 0, system = 0, childUser = 0, childSystem = 0] = fieldsOf(text)
    .slice(11, 15)
    .map(Number);
  return 10 * (user + system + childUser + childSystem);
}

/** Of a process and its children, such as the workers of nginx. */
export function familyCpuMs(pid: number): number {
  const children = readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .filter((name) => {
      try {
        return fieldsOf(readFileSync(`/proc/${name}/stat`, 'utf8'))[1] === String(pid);
      } catch {
        return false; // it has ended
      }
    });
  return [pid, ...children.map(Number)].reduce((sum, each) => sum + cpuMs(each), 0);
}

/** The first process whose command line holds this. */
export function findProcess(words: string): number | undefined {
  const found = readdirSync('/proc').find((name) => {
    try {
      return /^\d+$/.test(name) && readFileSync(`/proc/${name}/cmdline`, 'latin1').includes(words);
    } catch {
      return false; // it has ended
    }
  });
  return found === undefined ? undefined : Number(found);
}

/** For how long the process's first thread was ready to run while others had the processors. */
export function waitedMs(pid: number): number {
  const [, waitedNs] = readFileSync(`/proc/${pid}/task/${pid}/schedstat`, 'utf8').split(' ');
  return Number(waitedNs) / 1e6;
}

export function residentMb(pid: number): number {
  const kb = /VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1];
  return Number(kb) / 1_024;
}

/** From the state on: the name before it may hold anything. */
function fieldsOf(stat: string): string[] {
  return stat.slice(stat.lastIndexOf(')') + 2).split(' ');
}
