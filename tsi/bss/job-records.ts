import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { bootId, findProcess, type Process } from './processes.js';

/** What is written down before a job starts, so that no crash makes it run twice. */
export type JobRecord = {
  readonly id: string;
  readonly uid: number;
  readonly login: string;
  readonly attemptId?: string;
  readonly jobName?: string;
  readonly queue?: string;
  readonly uspaceDir: string;
  readonly createdMs: number;
  /**
   * When the last of its processes is ended by force, in time since this boot: what its machine stood still
   * does not count, and the clock may be set for that.
   */
  readonly endsByUptimeMs?: number;
  readonly bootId: string;
};

/** What the job's own shell notes beside it: its line of `/proc/self/stat`, later its exit code. */
export type JobRun = {
  readonly pid: number;
  readonly startTicks: number;
  readonly exitCode?: number;
  readonly endedMs?: number;
};

const keptMs = 7 * 24 * 3_600_000;

/** The jobs of this agent on disk: `<id>.json`, written once, and `<id>.run`, written by the job. */
export class JobRecords {
  readonly #dir: string;
  readonly #bootId = bootId();

  constructor(dir: string) {
    this.#dir = dir;
    mkdirSync(dir, { recursive: true, mode: 0o700 });
  }

  /** Everything on disk; what ended long ago is thrown away, and what was cut off when written. */
  load(nowMs: number): JobRecord[] {
    const records: JobRecord[] = [];
    for (const name of readdirSync(this.#dir)) {
      if (!name.endsWith('.json')) continue;
      const path = join(this.#dir, name);
      const record = parse(readFileSync(path, 'utf8'));
      if (record && !(this.isOld(record, nowMs) && !this.process(record))) records.push(record);
      else this.remove(name.slice(0, -'.json'.length));
    }
    return records;
  }

  /** Nobody asks any more. */
  isOld({ createdMs }: JobRecord, nowMs: number): boolean {
    return createdMs < nowMs - keptMs;
  }

  /** Durable when it returns. */
  create(facts: Omit<JobRecord, 'bootId'>): JobRecord {
    const record = { ...facts, bootId: this.#bootId };
    const fd = openSync(join(this.#dir, `${record.id}.json`), 'wx', 0o600);
    try {
      writeFileSync(fd, JSON.stringify(record));
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
    const dir = openSync(this.#dir, 'r');
    fsyncSync(dir);
    closeSync(dir);
    return record;
  }

  /** Opened by the agent, handed to the job's shell, which may write to it and no one else. */
  openRun(id: string): number {
    return openSync(this.#runFile(id), 'w', 0o600);
  }

  /** The batch system's own id of a job, where there is one. Durable when it returns. */
  noteBssId(id: string, bssId: string): void {
    const fd = this.openRun(id);
    try {
      writeFileSync(fd, `bss ${bssId}\n`);
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
  }

  bssId(id: string): string | undefined {
    return /^bss (\S+)\n/.exec(readText(this.#runFile(id)))?.[1];
  }

  has(id: string): boolean {
    return existsSync(join(this.#dir, `${id}.json`));
  }

  remove(id: string): void {
    for (const end of ['json', 'run']) rmSync(join(this.#dir, `${id}.${end}`), { force: true });
  }

  /** `undefined` while the job's shell has not started. */
  run(id: string): JobRun | undefined {
    const text = readText(this.#runFile(id));
    const start = /^(\d+) \([^]*?\) \S (?:\S+ ){18}(\d+) /.exec(text);
    if (!start) return undefined;
    const exit = /^exit (\d+)$/m.exec(text)?.[1];
    return {
      pid: Number(start[1]),
      startTicks: Number(start[2]),
      ...(exit !== undefined && {
        exitCode: Number(exit),
        endedMs: statSync(this.#runFile(id)).mtimeMs,
      }),
    };
  }

  /** The job's shell, if it lives. */
  process(record: JobRecord): Process | undefined {
    const run = this.session(record);
    const found = run && run.exitCode === undefined ? findProcess(run.pid) : undefined;
    return found && !/[ZX]/.test(found.state) ? found : undefined;
  }

  /** The session of the job, where its number can still mean it: the shell may have ended. */
  session(record: JobRecord): JobRun | undefined {
    const run = record.bootId === this.#bootId ? this.run(record.id) : undefined;
    const leader = run && findProcess(run.pid);
    return leader && leader.startTicks !== run.startTicks ? undefined : run;
  }

  #runFile(id: string): string {
    return join(this.#dir, `${id}.run`);
  }
}

function parse(json: string): JobRecord | undefined {
  try {
    const record = JSON.parse(json) as JobRecord; // our own file, in a directory of mode 0700
    return /^\d+$/.test(record.id) ? record : undefined;
  } catch {
    return undefined;
  }
}

function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}
