import { TsiError } from '../protocol/error.js';
import type { Budget, Partition } from '../protocol/information.js';
import type { BssEntry, BssState } from '../protocol/status.js';

/** What Slurm's programs print, read. Nothing here runs anything; test/fixtures/slurm has the originals. */

/** Job states of squeue(1) as UNICORE's (§2.11). What is not in the table is UNKNOWN. */
const states: Readonly<Record<string, BssState>> = {
  CONFIGURING: 'QUEUED',
  PENDING: 'QUEUED',
  REQUEUED: 'QUEUED',
  REQUEUE_FED: 'QUEUED',
  REQUEUE_HOLD: 'QUEUED',
  RESV_DEL_HOLD: 'QUEUED',
  SPECIAL_EXIT: 'QUEUED',
  COMPLETING: 'RUNNING',
  RESIZING: 'RUNNING',
  RUNNING: 'RUNNING',
  SIGNALING: 'RUNNING',
  STAGE_OUT: 'RUNNING',
  PREEMPTED: 'SUSPENDED',
  STOPPED: 'SUSPENDED',
  SUSPENDED: 'SUSPENDED',
  BOOT_FAIL: 'COMPLETED',
  CANCELLED: 'COMPLETED',
  COMPLETED: 'COMPLETED',
  DEADLINE: 'COMPLETED',
  FAILED: 'COMPLETED',
  NODE_FAIL: 'COMPLETED',
  OUT_OF_MEMORY: 'COMPLETED',
  REVOKED: 'COMPLETED',
  TIMEOUT: 'COMPLETED',
};

/** Of the members of an array the last in this order speaks for the whole. */
const ranks: readonly BssState[] = ['COMPLETED', 'QUEUED', 'SUSPENDED', 'RUNNING', 'UNKNOWN'];

/**
 * Lines `id state partition` of squeue, stock TSIs' format. `7_3`, `7_[4-9%2]` and `7+1` are of job 7.
 * @throws `TSI_FAILED` for a line that is none: a job left out would count as ended
 */
export function parseQueue(text: string): Map<string, BssEntry> {
  const jobs = new Map<string, BssEntry>();
  for (const line of lines(text)) {
    const [, id, rawState, queue] = /^(\d+)(?:[_+]\S*)?\s+(\S+)\s+(\S+)$/.exec(line) ?? [];
    if (!id || !rawState || !queue) unreadable('listing', line);
    const state = states[rawState] ?? 'UNKNOWN';
    const known = jobs.get(id);
    if (!known || ranks.indexOf(state) > ranks.indexOf(known.state))
      jobs.set(id, { state, queue, rawState });
  }
  for (const [id, { state }] of jobs) if (state === 'COMPLETED') jobs.delete(id);
  return jobs;
}

/** The id in the answer of `sbatch`, with `--parsable` or without. */
export function parseJobId(text: string): string | undefined {
  return /^(?:Submitted batch job )?(\d+)(?:;\S+| on cluster \S+)?$/m.exec(text.trim())?.[1];
}

/** Lines `id|comment`: the job whose comment begins with the mark. */
export function findMarked(text: string, mark: string): string | undefined {
  for (const line of lines(text)) {
    const [, id, first] = /^(\d+)[^|]*\|(\S*)/.exec(line) ?? [];
    if (first === mark) return id;
  }
  return undefined;
}

/** These may hold blanks and `=`, and are the last of their line. */
const wholeLine =
  /(?:^|\s)(JobName|Command|WorkDir|StdErr|StdIn|StdOut|Comment|AdminComment|SystemComment|Extra)=(.*)$/;

/** `scontrol show job`: of an array the record of the whole, with those of the members in `ArrayTasks`. */
export function parseDetails(text: string): Record<string, unknown> {
  const [first, ...others] = text
    .split(/\n\s*\n/)
    .filter((record) => record.trim() !== '')
    .map(parseRecord);
  if (first?.['JobId'] === undefined) unreadable('details', text);
  return others.length === 0 ? first : { ...first, ArrayTasks: [first, ...others] };
}

function parseRecord(text: string): Record<string, string> {
  const pairs: [string, string][] = [];
  for (const line of lines(text)) {
    const last = wholeLine.exec(line);
    const words = last ? line.slice(0, last.index) : line;
    for (const word of words.split(/\s+/)) {
      const at = word.indexOf('=');
      if (at > 0) pairs.push([word.slice(0, at), word.slice(at + 1)]);
    }
    if (last) pairs.push([last[1] ?? '', last[2] ?? '']);
  }
  return Object.fromEntries(pairs);
}

export type SlurmReservation = {
  readonly users: readonly string[];
  /** With a zone, where Slurm was asked to be in that of Greenwich. */
  readonly start: string;
  readonly active: boolean;
  readonly nodes: number;
  /** All that Slurm says, on one line. */
  readonly text: string;
};

/** `scontrol --oneliner show reservation NAME`; `undefined`: it names none. */
export function parseReservation(text: string): SlurmReservation | undefined {
  const [line] = lines(text).filter((each) => each.startsWith('ReservationName='));
  if (line === undefined) return undefined;
  const { Users, StartTime, State, NodeCnt } = parseRecord(line);
  if (Users === undefined || StartTime === undefined || State === undefined)
    unreadable('reservation', line);
  const users = Users.split(',');
  const start = `${StartTime}+0000`;
  return { users, start, active: State === 'ACTIVE', nodes: Number(NodeCnt), text: line };
}

/** What scontrol says of a name that no reservation has. */
export function isNoReservation(message: string): boolean {
  return /reservation \S+ not found|requested reservation is invalid|No reservations/i.test(
    message,
  );
}

const partitionLine = /^(\S+?)(\*?)\s+(\d+)(?:\s+(\S+)\s+(\d+)\+?\s+(\d+)\+?)?$/;
const bytesPerMiB = 1024 ** 2;

/**
 * Lines `name nodes [limit cpus MiB]` of sinfo. A star marks the default; a partition has a line for each
 * kind of its nodes, of which the largest counts.
 */
export function parsePartitions(text: string): Record<string, Partition> {
  const found = new Map<string, Partition>();
  for (const line of lines(text)) {
    const [, name, star, count, limit = '', cpus = 0, memory = 0] = partitionLine.exec(line) ?? [];
    if (!name) unreadable('partitions', line);
    const known = found.get(name);
    const seconds = parseTimeLimit(limit);
    const CPUsPerNode = Math.max(known?.CPUsPerNode ?? 0, Number(cpus));
    const MemoryPerNode = Math.max(known?.MemoryPerNode ?? 0, Number(memory) * bytesPerMiB);
    found.set(name, {
      Nodes: (known?.Nodes ?? 0) + Number(count),
      isDefault: star === '*',
      ...(seconds !== undefined && { Runtime: seconds }),
      ...(CPUsPerNode > 0 && { CPUsPerNode }),
      ...(MemoryPerNode > 0 && { MemoryPerNode }),
    });
  }
  return Object.fromEntries(found);
}

/** `5:00`, `12:00:00`, `2-00:00:00`. @returns seconds; `undefined` for `infinite` and what is no time */
function parseTimeLimit(text: string): number | undefined {
  const found = /^(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)$/.exec(text);
  if (!found) return undefined;
  const [days = 0, hours = 0, minutes = 0, seconds = 0] = found
    .slice(1)
    .map((part: string | undefined) => Number(part ?? 0));
  return ((days * 24 + hours) * 60 + minutes) * 60 + seconds;
}

/**
 * Lines `account|user|limits|usage` of sshare, the last two like `cpu=6000,mem=0` in minutes, for the accounts
 * that have a line of the user. Only a limit makes a budget, and the user's goes before the account's.
 */
export function parseBudget(text: string, login: string): Budget[] {
  const rows = lines(text).map((line) => line.split('|').map((word) => word.trim()));
  const own = rows.filter(([, user]) => user === login);
  return own.flatMap(([project = '', , ...users]) => {
    const whole = rows.find(([account, user]) => account === project && user === '');
    const [limits = '', usage = ''] =
      cpuMinutes(users[0]) === undefined ? (whole?.slice(2) ?? []) : users;
    const limit = cpuMinutes(limits);
    if (limit === undefined) return [];
    const left = Math.max(0, limit - (cpuMinutes(usage) ?? 0));
    const percent = limit === 0 ? 0 : Math.floor((100 * left) / limit);
    return [{ project, remaining: Math.floor(left / 60), percent, units: 'core-h' }];
  });
}

function cpuMinutes(limits = ''): number | undefined {
  const minutes = /(?:^|,)cpu=(\d+)/.exec(limits)?.[1];
  return minutes === undefined ? undefined : Number(minutes);
}

/**
 * Whether Slurm may have taken what a program failed to hand over. Seen with a controller that is slow:
 * sbatch fails with `Socket timed out on send/recv operation`, and the job runs.
 */
export function isUncertain(stderr: string): boolean {
  return /timed out|Zero Bytes|Transport endpoint|Communication|Unexpected message|reset by peer/i.test(
    stderr,
  );
}

/** scancel, of a job that has nothing left to end. */
export function hasEnded(message: string): boolean {
  return /Invalid job id|already completing or completed|Job\/step already/i.test(message);
}

/** `scontrol suspend` of an array: what it says of the members that do not run. */
export function concernsWaiting(stderr: string): boolean {
  const said = lines(stderr);
  return (
    said.length > 0 && said.every((line) => /: (No error|Job is pending execution)$/.test(line))
  );
}

function lines(text: string): string[] {
  return text
    .split('\n')
    .map((line) => line.trim())
    .filter(Boolean);
}

function unreadable(what: string, line: string): never {
  throw new TsiError('TSI_FAILED', `the ${what} of Slurm cannot be read: ${line.slice(0, 200)}`);
}
